"""The examples run, and say what is so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpo.cli import train
from grpo.plugins import load_object
from grpo.reward_settings import RewardSettings
from grpo.rewards.accuracy import accuracy
from grpo.rewards.format import format_reward
from grpo.rewards.registry import load_reward

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of examples/own.yaml."""
    output = tmp_path_factory.mktemp("runs")
    assert train([str(EXAMPLES / "own.yaml"), "--set", f"output={output}"]) == 0
    return output / "own"


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def call(program: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>17 - 3 * 5 = 2</think><answer>2</answer>", 1.0),
        ("<think>17 - 3 * 5 = 12</think><answer>2</answer>", 0.0),
        ("<think></think><answer>2</answer>", 0.0),
        ("<answer>2</answer>", None),
    ],
)
def test_the_reward_looks_at_the_end_of_the_thought(completion: str, reward: float | None) -> None:
    settings = RewardSettings(name=f"{EXAMPLES / 'own_reward.py'}:thought_ends_on_answer")
    assert load_reward(settings).call(completion=completion, answer="2") == reward


def test_remainders_are_distinct_and_their_demonstrations_right() -> None:
    problems = list(load_object(f"{EXAMPLES / 'own_problems.py'}:remainders")(size=720))
    assert len({problem["prompt"] for problem in problems}) == 720  # 90 numbers by 8 divisors: all there are
    answers = {problem["prompt"]: problem["answer"] for problem in problems}
    assert (answers["17 mod 5 ="], answers["99 mod 9 ="], answers["10 mod 4 ="]) == ("2", "0", "2")
    completions = [problem["completion"] for problem in problems]
    assert accuracy(completions, answer=[problem["answer"] for problem in problems]) == [1.0] * 720
    assert {format_reward(completion) for completion in completions} == {1.0}


def test_a_run_scores_with_the_reward_of_your_own(run: Path) -> None:
    steps = [row for row in rows(run / "02-grpo" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    samples = rows(run / "02-grpo" / "samples.jsonl")
    assert len(samples) == 4 * 4 * 4
    for sample in samples:
        applies = "</think>" in sample["completion"]
        assert sample["status"]["thought_ends_on_answer"] == ("ok" if applies else "not_applicable")
        weights = {"accuracy": 1.0, "format": 0.25, "thought_ends_on_answer": 0.25}
        parts = [weights[name] * value for name, value in sample["rewards"].items() if value is not None]
        assert sample["total"] == pytest.approx(sum(parts))


def test_the_table_shows_every_stage(run: Path) -> None:
    printed = call("read_metrics.py", run).splitlines()
    assert [line for line in printed if line[:3] in ("01-", "02-", "03-")] == ["01-sft", "02-grpo", "03-evaluate"]
    last = rows(run / "01-sft" / "metrics.jsonl")[-1]
    assert printed[printed.index("02-grpo") - 1].split() == ["30", f"{last['loss']:.3f}"]
    evaluated = rows(run / "03-evaluate" / "metrics.jsonl")
    assert [line.split()[1] for line in printed[-2:]] == [row["model"] for row in evaluated] == ["01-sft", "02-grpo"]


def test_the_picture_is_the_same_each_time(run: Path, tmp_path: Path) -> None:
    call("plot_run.py", run, tmp_path / "one.svg")
    call("plot_run.py", run, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").read_text(encoding="utf-8").count("<!-- 02-grpo -->") == 1  # the panel's title


def test_held_out_accuracy_goes_from_the_model_before_to_the_model_after(run: Path) -> None:
    plot = EXAMPLES / "plot_run.py"
    points = load_object(f"{plot}:held_out")(load_object(f"{plot}:read")(run), "02-grpo")
    before, after = rows(run / "03-evaluate" / "metrics.jsonl")
    assert [point[0] for point in points] == [0, 2, 4]  # evaluated every second step
    assert points[0][1:] == (before["accuracy"], before["accuracy_low"], before["accuracy_high"])
    assert points[-1][1:] == (after["accuracy"], after["accuracy_low"], after["accuracy_high"])
