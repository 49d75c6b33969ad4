"""A push of weights to an engine that has a copy of them, and what is checked after it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from grpo.engine_settings import CheckSettings
from grpo.forward import prepare_packing
from grpo.rollout.engine import Sampler
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.verification import MOVED, make_probe
from grpo.rollout.weights import WeightPush
from grpo.types import TrainingFailure


class Copied(TransformersEngine):
    """Samples with a copy of the weights."""

    def load_weights(self, model: nn.Module, version: int) -> None:
        super().load_weights(copy.deepcopy(model), version)

    def replicas(self) -> Sequence[Sampler]:
        return (self,)

    def check_with(self, check: Callable[[Sampler], None]) -> None:
        self.check = check


def test_a_copy_that_gets_the_weights_later_is_judged_as_one_that_got_them_with_the_push(
    tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model = tiny_model("llama")
    engine = Copied(model, byte_tokenizer, 4, "fp32")
    probe = make_probe([tuple(range(65, 90))], 12, CheckSettings(), 1.0, "fp32", "exact")
    push = WeightPush(engine, probe)
    assert push(model, 7)["check/gap_max"] < 1e-4
    engine.check(engine)
    with torch.no_grad():
        for parameter in engine._model.parameters():
            parameter += 0.1
    with pytest.raises(TrainingFailure, match=r"version 7: an engine that came back .* likely cause: some weights did"):
        engine.check(engine)


class Deaf(Copied):
    """Takes weights once."""

    def load_weights(self, model: nn.Module, version: int) -> None:
        if version == 0:
            super().load_weights(model, version)


def test_an_engine_that_ignores_pushes_is_found_though_the_learner_moves_little_in_each(
    tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    """Every step moves a part of MOVED and the tolerance is 0.1: the push that passes MOVED altogether is refused."""
    model = tiny_model("llama")
    probe = make_probe([tuple(range(65, 90))], 12, CheckSettings(), 1.0, "fp32", "dense")
    push = WeightPush(Deaf(model, byte_tokenizer, 4, "fp32"), probe)
    gaps = [push(model, 0)["check/gap_mean"]]

    def train(steps: int) -> None:
        for version in range(1, steps):
            with torch.no_grad():
                model.lm_head.weight.mul_(1.002)
            gaps.append(push(model, version)["check/gap_mean"])

    with pytest.raises(TrainingFailure, match="the engine did not take the weights"):
        train(100)
    assert len(gaps) > 3
    assert MOVED / 2 < gaps[-1] <= MOVED


def test_an_engine_is_held_to_logits_that_are_the_models_own(
    tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    """A model that multiplies what its head gives, as Falcon-H1 does: the head alone says something else."""
    model = tiny_model("llama")

    class Louder(type(model)):  # type: ignore[misc]  # a class that is known here alone
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = 3 * out.logits
            return out

    model.__class__ = Louder
    probe = make_probe([tuple(range(65, 90))], 12, CheckSettings(), 1.0, "fp32", "exact")
    with pytest.raises(TrainingFailure):
        WeightPush(Copied(model, byte_tokenizer, 4, "fp32"), probe)(model, 0)
    prepare_packing(model, byte_tokenizer)
    assert WeightPush(Copied(model, byte_tokenizer, 4, "fp32"), probe)(model, 0)["check/gap_max"] < 1e-4
