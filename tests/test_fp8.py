"""What of a model computes in FP8, when it does, and that nothing else about training changes."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from grpo.batch import Trajectory, micro_batches
from grpo.cli import train
from grpo.forward import prepare_packing, target_logprobs
from grpo.fp8 import Switch, fp8_experts, use_fp8
from grpo.grpo_stage import GrpoStage
from grpo.kernels.fp8_linear import fp8_linear
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.model_settings import LoraSettings
from grpo.objective import PolicyGradient
from grpo.policy import Policy, add_lora, make_reference
from grpo.types import TokenSequence, UserError

MakeModel = Callable[..., PreTrainedModel]

TRAJECTORIES = [
    Trajectory(TokenSequence((5, 6, 7), ids), (-2.0,) * len(ids), (-2.0,) * len(ids), advantage, 1 / 8)
    for ids, advantage in (((8, 9, 10), 1.0), ((11, 12), -1.0))
]
EXPERTS = {"gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": None}}
"""Of another make: transposed weights, biases, gate and up interleaved."""


def learner_of(model: nn.Module, **values: Any) -> Learner:
    basis = {"kind": "grpo", "lr": 1e-2, "steps": 4, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    stage = GrpoStage.model_validate(basis | {"kl": {"beta": 0}, "precision": "fp8_block"} | values)
    return Learner(model, stage, 4, Accelerator(cpu=True))


def objective_of(learner: Learner) -> PolicyGradient:
    stage: Any = learner.settings
    return PolicyGradient(make_loss(stage.loss), 1.0, stage.kl, None, 0.0)


def step(learner: Learner, number: int = 0) -> None:
    train_step(learner, micro_batches(TRAJECTORIES, 100, torch.device("cpu")), objective_of(learner), number)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def in_fp8(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module.forward, partial)}


# --- which products ---------------------------------------------------------------------------------------------------


def test_linears_and_experts_but_neither_head_nor_router(tiny_model: MakeModel) -> None:
    dense, mixture = tiny_model("llama"), tiny_model("deepseek_v3")
    assert use_fp8(dense, Switch())[0] == "precision: fp8_block: 14 linear layers compute in FP8"
    layer = {f"model.layers.0.{name}_proj" for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")}
    layer |= {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert in_fp8(dense) == layer | {name.replace("layers.0", "layers.1") for name in layer}
    use_fp8(mixture, Switch())
    found = {name.removeprefix("model.layers.1.mlp.") for name in in_fp8(mixture) if ".1.mlp" in name}
    assert found == {"experts", *(f"shared_experts.{name}_proj" for name in ("gate", "up", "down"))}


def test_the_head_of_scores_is_a_head(tiny_model: MakeModel) -> None:
    config = tiny_model("llama").config
    config.num_labels = 1
    judge = AutoModelForSequenceClassification.from_config(config)
    adapted = add_lora(judge, LoraSettings(), "SEQ_CLS")
    for model in (judge, adapted):
        use_fp8(model, Switch())
        assert len(in_fp8(model)) == 14
        assert not any("score" in name for name in in_fp8(model))


def test_a_router_of_the_old_kind_is_left_alone() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(8, 2)
            self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

        def get_output_embeddings(self) -> None:
            """None: it has no head."""

    model = Block()
    use_fp8(model, Switch())
    assert in_fp8(model) == {"experts.0", "experts.1"}


def test_what_stays_behind_is_said(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    model.own_experts = nn.ParameterList([nn.Parameter(torch.zeros(2, 3, 4))])
    notes = use_fp8(model, Switch())
    assert notes[1] == "precision: fp8_block: cpu has no units for FP8 here: its rounding is imitated, slowly"
    assert notes[2] == "precision: fp8_block: ParameterList stay in bf16: their weights are fused otherwise"


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe", "gpt_oss"])
def test_experts_are_those_of_each_token_by_itself(family: str, tiny_model: MakeModel) -> None:
    """A tile lies within one token, so tokens can be computed in any company."""
    model = tiny_model(family, **EXPERTS.get(family, {}))
    experts = next(module for module in model.modules() if hasattr(module, "is_transposed"))
    generator = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    hidden = torch.randn(9, 32, generator=generator)
    index = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(9)])  # nobody chooses the last one
    chosen = torch.rand(9, 2, generator=generator)
    alone = torch.zeros(9, 32)
    for token in range(9):
        for choice in range(2):
            number = int(index[token, choice])
            alone[token] += chosen[token, choice] * one_expert(experts, number, hidden[token])
    assert torch.allclose(fp8_experts(experts, hidden, index, chosen), alone, atol=1e-5)
    plain = experts(hidden, index, chosen)
    assert 1e-4 < (alone - plain).abs().max() / plain.abs().max() < 0.1


def one_expert(experts: Any, number: int, x: Tensor) -> Tensor:
    def part(name: str) -> tuple[Tensor, Tensor | None]:
        weight = getattr(experts, name)[number]
        bias = getattr(experts, f"{name}_bias")[number] if experts.has_bias else None
        return weight.mT if experts.is_transposed else weight, bias

    return fp8_linear(experts._apply_gate(fp8_linear(x[None], *part("gate_up_proj"))), *part("down_proj"))[0]


# --- when -------------------------------------------------------------------------------------------------------------


def test_the_switch_decides_and_a_copy_obeys_it_with_weights_of_its_own(
    tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    model = tiny_model("deepseek_v3")
    prepare_packing(model, byte_tokenizer)
    (batch,) = micro_batches(TRAJECTORIES, 100, torch.device("cpu"))
    before = target_logprobs(model, batch.tokens)
    learner = learner_of(model)
    with make_reference(Policy(model, byte_tokenizer, "")).model() as reference:
        assert torch.equal(target_logprobs(model, batch.tokens), before)  # the policy as it is sampled from
        with learner.autocast():
            rounded = target_logprobs(model, batch.tokens)
            assert torch.equal(target_logprobs(reference, batch.tokens), rounded)
            assert 1e-3 < (rounded - before).abs().max() < 1.0
            nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
            assert torch.equal(target_logprobs(reference, batch.tokens), rounded)
            assert not torch.equal(target_logprobs(model, batch.tokens), rounded)
    assert torch.equal(target_logprobs(reference, batch.tokens), before)


@pytest.mark.parametrize("activations", ["recompute", "offload"])
def test_activations_that_are_not_kept_round_as_they_did(
    activations: str, tiny_model: MakeModel, byte_tokenizer: Any
) -> None:
    models = [tiny_model("deepseek_v3") for _ in range(2)]
    for model, kind in zip(models, ("keep", activations), strict=True):
        prepare_packing(model, byte_tokenizer)
        step(learner_of(model, activations=kind))
    assert torch.equal(*map(weights, models))


def test_a_step_stays_near_that_of_bf16_with_float32_gradients(tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    """In a dense model; among experts rounding sends some tokens another way."""
    gradients = []
    for precision in ("bf16", "fp8_block"):
        model = tiny_model("llama")
        prepare_packing(model, byte_tokenizer)
        step(learner_of(model, precision=precision, max_grad_norm=1e9))
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    likeness = torch.cosine_similarity(*gradients, dim=0).item()
    assert 0.95 < likeness < 0.9999


def test_going_on_from_saved_weights_is_bit_identical(tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    """FP8 keeps nothing from step to step: weights and optimizer are all there is."""
    model = tiny_model("llama")
    learner = learner_of(model)
    kept = in_fp8(model)
    prepare_packing(learner.model, byte_tokenizer)  # which has functions of its own for linear layers
    assert in_fp8(model) == kept
    assert kept
    step(learner, 0)
    saved = copy.deepcopy((learner.model.state_dict(), learner.optimizer.state_dict()))
    step(learner, 1)
    again = learner_of(tiny_model("llama", seed=1))
    prepare_packing(again.model, byte_tokenizer)
    again.model.load_state_dict(saved[0])
    again.optimizer.load_state_dict(saved[1])
    step(again, 1)
    assert torch.equal(weights(learner.model), weights(again.model))


def test_adapters_train_beside_frozen_weights_in_fp8(tiny_model: MakeModel, byte_tokenizer: Any) -> None:
    model = add_lora(tiny_model("llama"), LoraSettings(rank=4))
    prepare_packing(model, byte_tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learner = learner_of(model)
    assert {name.rpartition(".")[2] for name in in_fp8(model)} == {"base_layer"}
    step(learner)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_B" in name}  # A's gradient is 0 while B is


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_weights_that_are_trained_must_be_float32(tiny_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"trains weights in float32, got bfloat16: set model\.dtype: float32"):
        learner_of(tiny_model("llama").to(torch.bfloat16))


def test_a_model_without_linear_layers_is_refused() -> None:
    config = AutoConfig.for_model("gpt2", vocab_size=32, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(UserError, match="needs linear layers, GPT2LMHeadModel has none: set bf16"):
        learner_of(AutoModelForCausalLM.from_config(config))


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_a_run_says_what_computes_in_fp8_and_its_gap_to_the_sampler(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The sampler's bf16 is not the learner's FP8: the gap is there at every first update, and small."""
    grpo = {"kind": "grpo", "steps": 2, "lr": 1e-3, "prompts_per_step": 4, "completions_per_prompt": 4}
    grpo |= {"precision": "fp8_block", "kl": {"beta": 0.01}, "rollout": {"max_new_tokens": 24}}
    recipe = write_recipe(stages=[grpo])
    assert train([str(recipe)]) == 0
    assert "14 linear layers and 1 layers' experts compute in FP8" in capsys.readouterr().out
    metrics = (recipe.parent / "runs" / "tiny" / "01-grpo" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(metrics[0])
    assert 1e-4 < first["sampler/mismatch_mean"] < 0.2
    assert abs(first["kl"]) < 1e-6  # reference and policy round alike
