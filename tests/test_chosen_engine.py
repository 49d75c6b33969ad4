"""Which engine samples where a recipe leaves it out."""

import importlib.util
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig

from grpo.engine_settings import EngineSettings
from grpo.rollout import make_engine
from grpo.rollout.make_engine import chosen_engine


def settings(**given: Any) -> EngineSettings:
    return EngineSettings.model_validate(given)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="what is chosen where vLLM is")
def test_vllm_where_it_is_and_has_kernels_for_the_model() -> None:
    odd = LlamaConfig(num_nextn_predict_layers=1)  # a layer of multi-token prediction, which vLLM does not load
    assert chosen_engine(settings()) == "vllm"
    assert chosen_engine(settings(), MistralConfig()) == "vllm"
    assert chosen_engine(settings(), odd) == "transformers"
    assert chosen_engine(settings(speculative={})) == "transformers"
    assert chosen_engine(settings(engine="transformers")) == "transformers"


def test_transformers_where_vllm_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_engine, "find_spec", lambda name: None)
    assert chosen_engine(settings()) == "transformers"
    assert chosen_engine(settings(engine="vllm")) == "vllm"  # what is asked for is not changed in silence
