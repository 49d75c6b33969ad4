"""A push of weights to an engine that has a copy of them, and what is checked after it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from grpo.engine_settings import CheckSettings
from grpo.rollout.engine import Sampler
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.rollout.verification import make_probe
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
