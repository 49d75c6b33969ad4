"""Recomputed and offloaded activations change nothing but memory and time."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from grpo.activations import recompute_layers
from grpo.batch import Trajectory, micro_batches
from grpo.forward import prepare_packing
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner, train_step
from grpo.losses import make_loss
from grpo.objective import PolicyGradient
from grpo.types import TokenSequence, UserError

TRAJECTORIES = [
    Trajectory(TokenSequence((5, 6, 7), ids), (-2.0,) * len(ids), (-2.0,) * len(ids), advantage, 1 / 8)
    for ids, advantage in (((8, 9, 10), 1.0), ((11, 12), -1.0))
]


def weights_after_a_step(model: Any, **values: Any) -> torch.Tensor:
    basis = {"kind": "grpo", "lr": 0.1, "steps": 1, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    stage = GrpoStage.model_validate(basis | {"kl": {"beta": 0}} | values)
    learner = Learner(model, stage, 1, Accelerator(cpu=True))
    objective = PolicyGradient(make_loss(stage.loss), 1.0, stage.kl, None, 0.0)
    train_step(learner, micro_batches(TRAJECTORIES, 100, torch.device("cpu")), objective, 0)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3"])
@pytest.mark.parametrize("activations", ["recompute", "offload"])
def test_a_step_is_the_same(family: str, activations: str, tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    models = [tiny_model(family) for _ in range(2)]
    for model in models:
        prepare_packing(model, byte_tokenizer)
    expected = weights_after_a_step(models[0])
    assert torch.equal(weights_after_a_step(models[1], activations=activations), expected)


def test_layers_are_run_twice_for_a_gradient_and_once_without(tiny_model: Callable[..., Any]) -> None:
    model, calls = tiny_model("llama"), []
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    recompute_layers(model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model(input_ids=ids)
    assert len(calls) == 1
    model(input_ids=ids).logits.sum().backward()
    assert len(calls) == 3


def test_a_copy_recomputes_its_own_layers(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    recompute_layers(model)
    other = copy.deepcopy(model)
    ids = torch.tensor([[1, 2, 3]])
    before = other(input_ids=ids).logits
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(other(input_ids=ids).logits, before)


def test_a_model_without_layers_to_recompute_is_refused() -> None:
    with pytest.raises(UserError, match="activations: recompute needs layers"):
        recompute_layers(nn.Linear(1, 1))
