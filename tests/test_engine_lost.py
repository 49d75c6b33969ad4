"""When nothing is left that samples, the run keeps what it has learned and goes on from there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import grpo.stages.grpo_parts
from grpo.cli import train
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion, EngineLost

STAGE = {
    "kind": "grpo",
    "steps": 5,
    "prompts_per_step": 2,
    "completions_per_prompt": 2,
    "lr": 1e-3,
    "checkpoint_every": 3,
    "rollout": {"max_new_tokens": 8},
    "kl": {"beta": 0},
    "evaluation": {"every": 3, "problems": 4},
    "keep_best": "evaluation/accuracy",
}


class Mortal(TransformersEngine):
    """An engine that is lost at a call, counted from 1: before the first step it evaluates, later ones sample."""

    calls, dies_at = 0, 0

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        self.calls += 1
        if self.calls == self.dies_at:
            raise EngineLost("no server is left to sample")
        return super().generate(requests, sampling)


class Deaf(TransformersEngine):
    """An engine that is lost when it is to take the weights of the third step."""

    def load_weights(self, model: nn.Module, version: int) -> None:
        if version == 3:
            raise EngineLost("no server is left to sample")
        super().load_weights(model, version)


def rows(folder: Path, log: str) -> list[dict[str, Any]]:
    """What a log tells, but for times and memory."""
    lines = map(json.loads, (folder / log).read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith(("time", "memory/", "tokens/"))} for line in lines]


def test_a_lost_engine_costs_no_step(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost in a rollout, as the weights are pushed, or in an evaluation, the run goes on as one that was not."""
    assert train([str(write_recipe("whole", stages=[STAGE]))]) == 0
    whole = write_recipe("whole", stages=[STAGE]).parent / "runs" / "whole" / "01-grpo"
    for name, kind, call, saved in (
        ("rollout", Mortal, 4, "step-000002"),
        ("push", Deaf, 0, "step-000003"),
        ("evaluation", Mortal, 5, "step-000003"),
    ):
        recipe = write_recipe(name, stages=[STAGE])

        def lost(settings: Any, policy: Any, work: Any, kind: Any = kind, call: int = call) -> Any:
            engine = kind(policy.model, policy.tokenizer, 8, "fp32")
            engine.dies_at = call
            return engine

        with monkeypatch.context() as patched:
            patched.setattr(grpo.stages.grpo_parts, "make_engine", lost)
            assert train([str(recipe)]) == 1
        assert "no server is left to sample" in capsys.readouterr().err
        folder = recipe.parent / "runs" / name / "01-grpo"
        assert [path.name for path in (folder / "checkpoints").iterdir()] == [saved]
        assert (folder.parent / "report.html").exists()
        assert train([str(recipe)]) == 0
        for log in ("metrics.jsonl", "samples.jsonl", "experts.jsonl"):
            assert rows(folder, log) == rows(whole, log)
        model = Path("model", "model.safetensors")
        assert (folder / model).read_bytes() == (whole / model).read_bytes()
