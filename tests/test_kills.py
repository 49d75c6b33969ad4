"""benchmarks/kills.py: when it kills, and what it takes for the same."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.plugins import load_object

KILLS = Path(__file__).parents[1] / "benchmarks" / "kills.py"


def of_kills(name: str) -> Callable[..., Any]:
    return load_object(f"{KILLS}:{name}")  # type: ignore[no-any-return]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write the folder of a run of two stages."""

    def make(name: str, loss: float = 0.5, seconds: float = 1.0, weights: bytes = b"w") -> Path:
        for stage in ("01-sft", "02-grpo"):
            folder = tmp_path / name / stage
            (folder / "model").mkdir(parents=True)
            (folder / "model" / "model.safetensors").write_bytes(weights)
            rows = [{"step": n, "loss": loss, "time": n * seconds, "time/learn": seconds} for n in (1, 2, 3)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return make


def test_every_stage_has_its_share_of_the_kills(make_run: Callable[..., Path]) -> None:
    found = of_kills("moments")(make_run("whole", seconds=0.1), 5, random.Random(0))
    assert [moment.stage for moment in found] == sorted(moment.stage for moment in found)
    assert {moment.stage for moment in found} == {"01-sft", "02-grpo"}
    assert all(moment.lines in (0, 1, 2) and 0 <= moment.seconds <= 0.1 for moment in found)
    assert found == of_kills("moments")(make_run("again", seconds=0.1), 5, random.Random(0))
    assert len(of_kills("moments")(make_run("third"), 1, random.Random(0))) == 1


def test_times_may_differ_and_nothing_else(make_run: Callable[..., Path]) -> None:
    contents, differences = of_kills("contents"), of_kills("differences")
    whole = contents(make_run("whole"))
    assert len(whole) == 4
    assert differences(whole, contents(make_run("slower", seconds=2.0))) == []
    metrics = [f"{stage}/metrics.jsonl" for stage in ("01-sft", "02-grpo")]
    assert differences(whole, contents(make_run("other", loss=0.6))) == metrics
    models = [f"{stage}/model/model.safetensors" for stage in ("01-sft", "02-grpo")]
    assert differences(whole, contents(make_run("changed", weights=b"v"))) == models
    short = make_run("short")
    (short / "02-grpo" / "metrics.jsonl").unlink()
    assert differences(whole, contents(short)) == ["02-grpo/metrics.jsonl"]
