"""The update by hand, and the law that no split into micro-batches or processes changes it.

Run as a program (`python test_learner.py OUT`), this file is one process of several, and saves what a step gave it.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.batch import Trajectory, micro_batches, pack
from grpo.correction import first_pass
from grpo.experience import engines_own, minibatches
from grpo.experts.load import balance_of
from grpo.forward import target_logprobs
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.objective import PolicyGradient
from grpo.policy import Policy, make_reference
from grpo.tally import Tally
from grpo.types import Completion, Group, Problem, Score, ScoredGroup, TokenSequence, TrainingFailure

LENGTHS = [(3, 5, 2), (7, 1, 4), (6, 6, 2)]
"""Completions of 3 prompts: 36 tokens in 9 sequences."""


def stage(**values: Any) -> GrpoStage:
    basis = {"kind": "grpo", "lr": 0.1, "steps": 10, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    return GrpoStage.model_validate(basis | values)


def learner_of(model: nn.Module, **values: Any) -> Learner:
    return Learner(model, stage(**values), 10, Accelerator(cpu=True))


def scalar(value: float = 1.0) -> nn.Linear:
    """A matrix of one number."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def slope(model: nn.Module, factor: float) -> tuple[Tensor, Tally]:
    """A loss whose gradient is the micro-batch itself."""
    return factor * model(torch.ones(1, 1)).sum(), Tally().add("seen", 1)


# --- the update -------------------------------------------------------------------------------------------------------


def test_the_first_step_of_adamw_by_hand() -> None:
    """Gradient 2 + 1 = 3, clipped to 1, and divided by its own size: -0.1; decay takes 0.1 * 0.5 of the weight."""
    model = scalar()
    figures = train_step(learner_of(model, weight_decay=0.5), [2.0, 1.0], slope, step=0).figures()
    assert model.weight.item() == pytest.approx(1 - 0.05 - 0.1)
    assert figures == pytest.approx({"loss": 3, "grad_norm": 3, "lr": 0.1, "skipped": 0, "seen": 2})


def test_a_gradient_below_the_limit_is_not_clipped() -> None:
    """Adam divides the size away, so epsilon 1 makes it visible: 0.1 * 0.25 / (0.25 + 1)."""
    model = scalar()
    train_step(learner_of(model, adam_epsilon=1.0, max_grad_norm=0.5), [0.25], slope, step=0)
    assert model.weight.item() == pytest.approx(1 - 0.1 * 0.25 / 1.25)
    model = scalar()
    train_step(learner_of(model, adam_epsilon=1.0, max_grad_norm=0.5), [5.0], slope, step=0)
    assert model.weight.item() == pytest.approx(1 - 0.1 * 0.5 / 1.5, rel=1e-6)


def test_the_step_sets_the_learning_rate() -> None:
    learner = learner_of(scalar(), lr_schedule="linear", warmup_steps=2)
    rates = [train_step(learner, [1.0], slope, step).figures()["lr"] for step in (0, 1, 9)]
    assert rates == pytest.approx([0.05, 0.1, 0.0])


def test_gradients_of_the_last_minibatch_are_forgotten() -> None:
    learner = learner_of(scalar())
    assert [train_step(learner, [2.0], slope, 0).figures()["grad_norm"] for _ in range(3)] == [2, 2, 2]


def test_a_minibatch_without_signal_changes_nothing() -> None:
    model = scalar()
    learner = learner_of(model, weight_decay=0.5)
    assert train_step(learner, [], slope, 0).figures() == {"no_signal": 1, "loss": 0}
    assert model.weight.item() == 1
    assert not learner.optimizer.state


def test_a_parameter_that_no_token_reached_decays_as_the_others_do() -> None:
    model = nn.ModuleList([scalar(), scalar()])
    train_step(learner_of(model, weight_decay=0.5), [1.0], lambda m, x: slope(m[0], x), 0)
    assert [m.weight.item() for m in model] == pytest.approx([0.85, 0.95])


def test_bf16_computes_in_bf16_and_keeps_the_weights() -> None:
    seen = []

    def note(model: nn.Module, factor: float) -> tuple[Tensor, Tally]:
        output = model(torch.ones(1, 1))
        seen.append(output.dtype)
        return factor * output.float().sum(), Tally()

    for precision, lr in (("bf16", 1e-4), ("fp32", 1e-4)):
        model = scalar()
        train_step(learner_of(model, precision=precision, lr=lr), [1.0], note, 0)
        assert (model.weight.dtype, model.weight.grad.dtype) == (torch.float32, torch.float32)
        assert model.weight.item() == pytest.approx(1 - 1e-4, abs=1e-7)  # bfloat16 has nothing between 1 and 0.996
    assert seen == [torch.bfloat16, torch.float32]


# --- steps that are not finite ----------------------------------------------------------------------------------------


def infinite_slope(model: nn.Module, _: float) -> tuple[Tensor, Tally]:
    """A loss of 0 with a gradient that is not finite."""
    return (model(torch.ones(1, 1)) * 0).sqrt().sum(), Tally()


@pytest.mark.parametrize(
    ("batches", "objective"),
    [([float("nan")], slope), ([1.0, float("inf"), 1.0], slope), ([1.0], infinite_slope)],
)
def test_a_step_that_is_not_finite_changes_nothing(batches: list[float], objective: Any) -> None:
    model = scalar()
    learner = learner_of(model)
    train_step(learner, [1.0], slope, 0)
    weight, moments = model.weight.detach().clone(), learner.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    assert train_step(learner, batches, objective, 1).figures()["skipped"] == 1
    assert torch.equal(model.weight, weight)
    assert torch.equal(learner.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert train_step(learner, [1.0], slope, 2).figures()["skipped"] == 0
    assert not torch.equal(model.weight, weight)


def test_bad_steps_in_a_row_stop_the_run_and_a_good_one_forgives() -> None:
    learner = learner_of(scalar(), max_bad_steps=3)
    for factor in ("nan", "nan", "1", "nan", "nan"):
        train_step(learner, [float(factor)], slope, 4)
    with pytest.raises(TrainingFailure, match="step 5: the loss or gradient was not finite 3 times in a row"):
        train_step(learner, [float("nan")], slope, 4)


# --- splits -----------------------------------------------------------------------------------------------------------


EXPERTS = {
    "moe_intermediate_size": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 2,
}  # fmt: skip


def policy(family: str = "llama") -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
        **(EXPERTS if family == "deepseek_v3" else {}),
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def scored_groups() -> list[ScoredGroup]:
    generator = torch.Generator().manual_seed(1)

    def completion(length: int) -> Completion:
        ids = torch.randint(32, (length,), generator=generator).tolist()
        logprobs = (-4 * torch.rand(length, generator=generator) - 1).tolist()
        return Completion("", tuple(ids), tuple(logprobs), "stop", 0)

    problem = Problem("p", "", {})
    groups = [Group(problem, (1, 2, 3)[: i + 1], tuple(map(completion, row))) for i, row in enumerate(LENGTHS)]
    return [ScoredGroup(group, tuple(Score(0.0, {}, {}) for _ in group.completions)) for group in groups]


def trajectories(settings: GrpoStage) -> list[Trajectory]:
    advantages_PG = torch.tensor([[1.0, -0.5, -0.5], [-1.2, 0.7, 0.5], [0.1, 0.2, -0.3]])
    groups = scored_groups()
    return minibatches(groups, engines_own(groups), advantages_PG, settings)[0]


def gradient_and_figures(
    settings: GrpoStage, budget: int, family: str = "llama"
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Gradient and parameters after one step of micro-batches of at most `budget` tokens, and its figures."""
    model = policy(family)
    reference = make_reference(Policy(model, None, ""))  # type: ignore[arg-type]  # a reference reads no text
    learner = Learner(model, settings, 10, Accelerator(cpu=True))
    batches = micro_batches(trajectories(settings), budget, torch.device("cpu"))
    balance = balance_of(learner, [batch.tokens for batch in batches])
    objective = PolicyGradient(
        make_loss(settings.loss), 1.3, settings.kl, reference, settings.entropy.bonus, balance=balance
    )
    tally = train_step(learner, batches, objective, 0)
    return _flat([p.grad for p in model.parameters()]), _flat(model.state_dict().values()), tally.figures()


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def close(one: Any, other: Any) -> None:
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()
    assert one[2] == pytest.approx(other[2], rel=1e-5)


# Without a limit and with an epsilon that outweighs rounding, the parameters follow the gradient itself.
SMOOTH = {"adam_epsilon": 1.0, "max_grad_norm": 1e6, "kl": {"beta": 0.1}, "entropy": {"bonus": 0.05}}
LOSSES: list[dict[str, Any]] = [
    {"kind": "grpo", "aggregation": "seq-mean-token-mean"},
    {"kind": "grpo", "aggregation": "seq-mean-token-sum", "dual_clip": 3.0},
    {"kind": "dr_grpo"},
    {"kind": "dapo"},
    {"kind": "gspo", "clip_low": 0.5, "clip_high": 0.5},
    {"kind": "cispo"},
    {"kind": "gmpo"},
    {"kind": "sapo"},
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss['kind']}-{loss.get('aggregation', '')}")
def test_no_split_into_micro_batches_changes_a_step(loss: dict[str, Any]) -> None:
    settings = stage(loss=loss, **SMOOTH)
    whole = gradient_and_figures(settings, 10_000)
    assert whole[0].abs().max() > 1e-3
    for budget in (1, 15, 30):
        close(gradient_and_figures(settings, budget), whole)


BALANCE = {"bias_update_rate": 0.01, "sequence_balance_loss": 0.5, "auxiliary_loss": 0.3}
CASES = [
    (stage(**SMOOTH), 15, "llama"),
    (stage(**SMOOTH), 10_000, "llama"),
    (stage(**SMOOTH, experts=BALANCE), 15, "deepseek_v3"),
]


def save_steps(out: Path) -> None:
    """What a step gives with many micro-batches, and with one, of which a second process has none."""
    torch.save([gradient_and_figures(*case) for case in CASES], out)


def processes(count: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": f"{count}", "MASTER_ADDR": "localhost", "MASTER_PORT": f"{port}", "OMP_NUM_THREADS": "1"}
    for rank in range(count):
        own = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "ACCELERATE_USE_CPU": "true"}
        yield subprocess.Popen([sys.executable, __file__, str(folder / f"{rank}.pt")], env=os.environ | group | own)


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    assert [process.wait(timeout=120) for process in list(processes(2, tmp_path))] == [0, 0]
    first, second = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt")
    for case, ours, theirs in zip(CASES, first, second, strict=True):
        assert torch.equal(ours[1], theirs[1])  # both hold the same weights and biases, bit for bit
        assert ours[2] == theirs[2]
        close(ours, gradient_and_figures(*case))


def test_the_anchor_is_the_engine_unless_a_correction_needs_the_learner() -> None:
    """Its own probabilities cost a pass: they are computed for several updates under a correction alone."""
    groups, mask = scored_groups(), {"kind": "token_mask"}
    engine = [[c.sampler_logprobs for c in g.group.completions] for g in groups]
    once, several = stage(correction=mask), stage(correction=mask, epochs_per_step=2)
    learner = Learner(policy(), several, 10, Accelerator(cpu=True))
    assert first_pass(groups, stage(), learner).anchors_PG == engine
    assert first_pass(groups, once, learner).anchors_PG == engine

    # However the sequences are split into micro-batches, each completion gets its own.
    sequences = [TokenSequence(g.group.prompt_ids, c.token_ids) for g in groups for c in g.group.completions]
    alone = [target_logprobs(learner.model, pack([sequence], torch.device("cpu"))) for sequence in sequences]
    for budget in (8, 4096):
        settings = several.model_copy(update={"tokens_per_micro_batch": budget})
        first = first_pass(groups, settings, learner)
        own = [torch.tensor(logprobs) for row in first.anchors_PG for logprobs in row]
        for found, expected in zip(own, alone, strict=True):
            torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


if __name__ == "__main__":
    save_steps(Path(sys.argv[1]))
    assert Accelerator().num_processes == int(os.environ["WORLD_SIZE"])
    torch.distributed.destroy_process_group()
