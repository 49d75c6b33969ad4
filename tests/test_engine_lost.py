"""When nothing is left that samples, the run keeps what it has learned and goes on from there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

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
    "checkpoint_every": 10,
    "rollout": {"max_new_tokens": 8},
    "kl": {"beta": 0},
}


class Mortal(TransformersEngine):
    """An engine that is lost at its fourth rollout."""

    rollouts = 0

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        self.rollouts += 1
        if self.rollouts == 4:
            raise EngineLost("no server is left to sample")
        return super().generate(requests, sampling)


def test_a_lost_engine_costs_no_step(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mortal(settings: Any, policy: Any, work: Any) -> Mortal:
        return Mortal(policy.model, policy.tokenizer, 8, "fp32")

    recipe = write_recipe(stages=[STAGE])
    with monkeypatch.context() as patched:
        patched.setattr(grpo.stages.grpo_parts, "make_engine", mortal)
        assert train([str(recipe)]) == 1
    assert "no server is left to sample" in capsys.readouterr().err
    folder = recipe.parent / "runs" / "tiny" / "01-grpo"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000003"]
    assert (folder.parent / "report.html").exists()
    assert train([str(recipe)]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
