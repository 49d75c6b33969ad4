"""The terms of balance in a step: counted over whole minibatches, however these are split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from grpo.batch import Trajectory, make_batch, micro_batches, pack
from grpo.checkpoint import Checkpoint, load_latest, save_checkpoint
from grpo.experts.health import LOAD, router_figures, routing_tally
from grpo.experts.load import balance_of
from grpo.experts.observe import bias_buffers, observe, routers_of
from grpo.experts.terms import step_biases
from grpo.forward import target_logprobs
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.model_settings import LoraSettings
from grpo.objective import PolicyGradient
from grpo.policy import Policy, add_lora, make_reference
from grpo.training import trained_state
from grpo.types import TokenSequence, UserError

CPU = torch.device("cpu")
PROMPTS = [(1, 2, 3), (1, 2, 3), (1, 2, 3), (4,), (4,), (5, 6)]
TRAJECTORIES = [
    Trajectory(TokenSequence(prompt, tuple(range(7 + i, 12 + 2 * i))), (-1.0,) * (5 + i), (-1.0,) * (5 + i), adv, 0.1)
    for i, (prompt, adv) in enumerate(zip(PROMPTS, (1.0, -1.0, 0.5, 2.0, -2.0, 1.0), strict=True))
]
TERMS = {"bias_update_rate": 0.01, "sequence_balance_loss": 0.5, "auxiliary_loss": 0.3}


def stage(**values: Any) -> GrpoStage:
    basis = {"kind": "grpo", "lr": 0.1, "steps": 10, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    smooth = {"adam_epsilon": 1.0, "max_grad_norm": 1e6, "kl": {"beta": 0.1}}
    return GrpoStage.model_validate(basis | smooth | values)


def policy(family: str = "deepseek_v3", seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    latent = {"q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    deepseek = {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
    own = latent | deepseek if family == "deepseek_v3" else {"num_local_experts": 4}
    config = AutoConfig.for_model(
        family, vocab_size=32, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, num_experts_per_tok=2, max_position_embeddings=64,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None, **own,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def step(
    settings: GrpoStage, budget: int, model: PreTrainedModel | None = None
) -> tuple[Tensor, Tensor, dict[str, float], Tensor]:
    """Gradient, parameters and biases, figures and load after one step of micro-batches of at most `budget` tokens."""
    model = policy() if model is None else model
    learner = Learner(model, settings, 10, Accelerator(cpu=True))
    batches = micro_batches(TRAJECTORIES, budget, CPU, learner.accelerator.num_processes)
    objective = PolicyGradient(
        make_loss(settings.loss),
        1.0,
        settings.kl,
        make_reference(Policy(model, None, "")),  # type: ignore[arg-type]  # a reference reads no text
        0.0,
        balance=balance_of(learner, [batch.tokens for batch in batches]),
    )
    tally = train_step(learner, batches, objective, 0)
    flat = [torch.cat([t.detach().flatten() for t in part]) for part in (
        [p.grad for p in model.parameters()], [*model.parameters(), *bias_buffers(model)],
    )]  # fmt: skip
    return flat[0], flat[1], tally.figures(), tally.tensors[LOAD]


def close(one: Any, other: Any) -> None:
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        assert (ours - theirs).abs().max() <= 3e-6 * theirs.abs().max()
    assert one[2] == pytest.approx(other[2], rel=1e-5, abs=1e-7)
    assert torch.equal(one[3], other[3])


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"activations": "recompute"}], ids=["kept", "recomputed"])
def test_no_split_into_micro_batches_changes_load_bias_or_balance_losses(changes: dict[str, Any]) -> None:
    whole = step(stage(experts=TERMS, **changes), 10_000)
    for budget in (1, 12, 25):
        close(step(stage(experts=TERMS, **changes), budget), whole)
    tokens = sum(len(t.tokens) - 1 for t in TRAJECTORIES)
    assert whole[3].sum(-1).tolist() == [2 * tokens] * 2  # two experts a token in each of two layers, prompts repeated
    without = step(stage(), 10_000)
    assert (without[0] - whole[0]).abs().max() > 1e-3
    figures = whole[2]
    assert figures["loss"] == pytest.approx(
        without[2]["loss"] + 0.5 * figures["router/sequence_balance_loss"] + 0.3 * figures["router/auxiliary_loss"],
        rel=1e-5,
    )
    assert figures["router/bias_range"] == pytest.approx(0.02)


# --- the bias ---------------------------------------------------------------------------------------------------------


def test_only_the_policys_own_pass_is_counted_and_the_bias_moves_by_the_rate() -> None:
    """A reference's pass over the same tokens counts nothing; a step that is not finite moves nothing."""
    model = policy()
    experts = [p for name, p in model.named_parameters() if "layers" in name]
    load_LE = step(stage(experts={"bias_update_rate": 0.01}), 10_000, model)[3]
    for bias_E, load_E in zip(bias_buffers(model), load_LE, strict=True):
        torch.testing.assert_close(bias_E, 0.01 * (load_E.mean() - load_E).sign().float())
    before = [bias_E.clone() for bias_E in bias_buffers(model)]
    with torch.no_grad():
        experts[0].fill_(float("nan"))
    figures = step(stage(experts={"bias_update_rate": 0.01}, max_bad_steps=9), 10_000, model)[2]
    assert figures["skipped"] == 1
    assert all(torch.equal(*pair) for pair in zip(before, bias_buffers(model), strict=True))


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {}], ids=["autocast", "bfloat16 weights"])
def test_the_bias_moves_in_float32_under_bfloat16(changes: dict[str, Any]) -> None:
    model = policy()
    if not changes:
        model = model.to(torch.bfloat16)  # which casts the bias too
    with torch.no_grad():
        for bias in bias_buffers(model):
            bias.fill_(0.75)
    for _ in range(3):
        step(stage(experts={"bias_update_rate": 1e-3}, **changes), 10_000, model)
    for bias in bias_buffers(model):
        assert bias.dtype == torch.float32
        assert (bias - 0.75).abs().max() >= 0.9e-3
        assert set(((bias - 0.75) * 1e3).round().abs().tolist()) <= {0, 1, 2, 3}


def test_the_bias_comes_back_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    for lora in (False, True):
        model: Any = add_lora(policy(), LoraSettings(rank=2)) if lora else policy()
        step_biases(model, torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 5.0, 1.0]]), 0.1 / 3)
        state = trained_state(Policy(model, None, ""))  # type: ignore[arg-type]  # no text is read
        save_checkpoint(tmp_path / str(lora), Checkpoint(1, state, {}, {}, [], {}, {}))
        checkpoint, _ = load_latest(tmp_path / str(lora))
        assert checkpoint is not None
        again: Any = add_lora(policy(), LoraSettings(rank=2)) if lora else policy()
        again.load_state_dict(dict(checkpoint.model), strict=False)
        for bias, restored in zip(bias_buffers(model), bias_buffers(again), strict=True):
            assert torch.equal(bias, restored)
            assert bias.abs().max() > 0


def test_an_adapters_reference_keeps_its_own_bias() -> None:
    model = add_lora(policy(), LoraSettings(rank=2))
    reference = make_reference(Policy(model, None, ""))  # type: ignore[arg-type]  # no text is read
    load_LE = torch.tensor([[4.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 0.0]])
    step_biases(model, load_LE, 1.0)
    moved = [bias.clone() for bias in bias_buffers(model)]
    with reference.model() as lent:
        assert all(bias.abs().max() == 0 for bias in bias_buffers(lent))
    assert all(torch.equal(*pair) for pair in zip(bias_buffers(model), moved, strict=True))
    reference.refresh(Policy(model, None, ""))  # type: ignore[arg-type]
    step_biases(model, load_LE, 1.0)
    state = reference.state_dict()
    again = make_reference(Policy(model, None, ""))  # type: ignore[arg-type]
    again.load_state_dict(state)
    for lender in (reference, again):
        with lender.model() as lent:
            assert all(torch.equal(*pair) for pair in zip(bias_buffers(lent), moved, strict=True))


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_step_by_hand() -> None:
    """Experts 0 and 1 are always chosen: twice the mean load, two dead ones in each of two layers."""
    model = policy()
    with torch.no_grad():
        for router in routers_of(model):
            router.weight.zero_()
            router.e_score_correction_bias.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    figures = step(stage(), 10_000, model)[2]
    assert figures["router/max_violation"] == 1
    assert figures["router/dead"] == 4
    assert figures["router/1/dead"] == 2
    assert figures["router/0/entropy"] == pytest.approx(1)
    assert "router/rerouted" not in figures
    assert figures["router/bias_range"] == 1


def test_tokens_that_engine_and_policy_route_differently_are_a_share() -> None:
    model = policy("mixtral")
    sequence = TokenSequence((1, 2), (3, 4, 5))
    tokens = pack([sequence], CPU)
    _, routing = observe(model, tokens, None, lambda: target_logprobs(model, tokens))
    assert routing is not None
    sampler_TLK = routing.experts_LTK.transpose(0, 1).flip(-1).clone()  # their order says nothing
    sampler_TLK[0, 0] = (sampler_TLK[0, 0] + 1) % 4
    figures = router_figures(routing_tally(routing, sampler_TLK).tensors)
    changed = set(sampler_TLK[0, 0].tolist()) != set(routing.experts_LTK[0, 0].tolist())
    assert [figures[f"router/{layer}/rerouted"] for layer in range(3)] == [changed / 4, 0, 0]
    assert figures["router/rerouted"] == pytest.approx(changed / 12)


def test_a_dense_model_has_no_figures_of_routers(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model: nn.Module = tiny_model("llama")
    with pytest.raises(UserError, match="expected a model with routers, got a dense LlamaForCausalLM"):
        Learner(model, stage(experts={"sequence_balance_loss": 0.1}), 10, Accelerator(cpu=True))
    learner = Learner(model, stage(), 10, Accelerator(cpu=True))
    batch = make_batch(TRAJECTORIES[:2], CPU)
    objective = PolicyGradient(make_loss(stage().loss), 1.0, stage(kl={"beta": 0}).kl, None, 0.0)
    figures = train_step(learner, [batch], objective, 0).figures()
    assert not [name for name in figures if name.startswith("router/")]


def test_a_mixture_whose_routers_are_not_found_is_refused_without_settings_too(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = tiny_model("qwen3_moe")
    mlp = model.get_decoder().layers[0].mlp
    mlp.router = mlp._modules.pop("gate")
    with pytest.raises(UserError, match="got Qwen3MoeForCausalLM without, of transformers"):
        Learner(model, stage(), 10, Accelerator(cpu=True))
