"""The last stage of R1: reasoning problems keep their rules, general ones are judged by preference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import train
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import check_reward, load_reward
from grpo.types import Problem, UserError
from grpo.where import matches

SUMS = [{"prompt": f"{a}+{b}=", "answer": str(a + b), "set": "reasoning"} for a in range(8) for b in range(4)]
CHATS = [{"prompt": f"say {i}", "set": "helpful" if i % 2 else "safety"} for i in range(32)]
PAIRS = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
LABELS = [{"prompt": f"say {i}", "response": f"{'ok' if i % 2 else 'bad'} {i}", "label": i % 2} for i in range(40)]
PLAIN = {"kind": "plain"}


def learns(file: str, **keys: Any) -> dict[str, Any]:
    problems = {"path": file, "held_out": 0.2, "template": PLAIN}
    return {"kind": "reward_model", "problems": problems, "steps": 2, "examples_per_step": 4, "lr": 1e-2, **keys}


ALIGN: dict[str, Any] = {
    "kind": "grpo",
    "steps": 3,
    "prompts_per_step": 8,
    "completions_per_prompt": 3,
    "lr": 1e-3,
    "checkpoint_every": 2,
    "rollout": {"max_new_tokens": 12, "temperature": 0.7},
    "evaluation": {"every": 2, "problems": 16},
    "rewards": [
        {"name": "accuracy", "where": {"set": "reasoning"}},
        {"name": "format"},
        {"name": "language"},
        {
            "name": "reward_model",
            "label": "helpful",
            "options": {"model": "01-reward_model"},
            "where": {"set": "helpful"},
        },
        {
            "name": "reward_model",
            "label": "safe",
            "options": {"model": "02-reward_model"},
            "where": {"set": ["safety"]},
        },
    ],
}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(write_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    mixed = [row for pair in zip(SUMS, CHATS, strict=True) for row in pair]
    for name, rows in (("mixed", mixed), ("pairs", PAIRS), ("labels", LABELS)):
        write(tmp_path, f"{name}.jsonl", rows)
    problems = {"path": "mixed.jsonl", "held_out": 0.25, "template": PLAIN}
    stages = [learns("pairs.jsonl"), learns("labels.jsonl", objective="pointwise"), ALIGN]
    evaluate = {
        "kind": "evaluate",
        "limit": 8,
        "samples": 2,
        "k": [1],
        "max_new_tokens": 12,
        "rewards": ALIGN["rewards"],
    }
    return write_recipe(problems=problems, stages=[*stages, evaluate])


def rows_of(recipe: Path, stage: str, file: str = "metrics") -> list[dict[str, Any]]:
    path = recipe.parent / "runs" / "tiny" / stage / f"{file}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_problem_gets_the_rewards_that_are_for_it(recipe: Path) -> None:
    assert train([str(recipe)]) == 0
    kind = {row["prompt"]: row["set"] for row in [*SUMS, *CHATS]}
    own = {"reasoning": "accuracy", "helpful": "helpful", "safety": "safe"}
    samples = rows_of(recipe, "03-grpo", "samples")
    assert {kind[sample["prompt"]] for sample in samples} == own.keys()
    for sample in samples:
        judged = {name for name in own.values() if sample["status"][name] != "not_applicable"}
        assert judged == {own[kind[sample["prompt"]]]}
        applied = [value for value in sample["rewards"].values() if value is not None]
        assert sample["total"] == pytest.approx(sum(applied))  # R1's second stage is a plain sum of what applies

    steps = [row for row in rows_of(recipe, "03-grpo") if "loss" in row]
    assert all({"time/reward/helpful", "time/reward/safe", "time/reward/accuracy"} <= row.keys() for row in steps)
    assert sum(row["time/reward/helpful"] for row in steps) <= sum(row["time/reward"] for row in steps)
    assert all({"watch/helpful", "watch/safe"} <= row.keys() for row in steps)
    assert [row["step"] for row in steps if "watch/parted" in row] == [2, 3]  # where accuracy was measured
    assert all(row["sampler/mismatch_max"] < 1e-3 for row in steps)  # the learner knows the temperature of 0.7
    assert [row["model"] for row in rows_of(recipe, "04-evaluate")] == ["base", "03-grpo"]  # reward models are none
    for row in rows_of(recipe, "04-evaluate"):  # accuracy is of the problems that have a right answer
        asked = [s for s in rows_of(recipe, "04-evaluate", "samples") if s["step"] == row["step"]][
            : int(row["problems"])
        ]
        values = [s["rewards"]["accuracy"] for s in asked if s["status"]["accuracy"] != "not_applicable"]
        assert 0 < len(values) < len(asked)
        assert row["accuracy"] == sum(value == 1 for value in values) / len(values)


def test_general_data_may_begin_later_as_a_source_of_its_own(recipe: Path, write_recipe: Callable[..., Path]) -> None:
    write(recipe.parent, "sums.jsonl", SUMS)
    write(recipe.parent, "chats.jsonl", CHATS)
    helpful = {"name": "reward_model", "label": "liked", "options": {"model": "helpful"}}
    sources = [
        {"path": "sums.jsonl", "rewards": ["accuracy"]},
        {"path": "chats.jsonl", "rewards": ["liked"], "first_step": 2},
    ]
    problems = {"sources": sources, "held_out": 0.25, "template": PLAIN}
    align = {**ALIGN, "problems": problems, "rewards": [{"name": "accuracy"}, helpful], "steps": 2}
    file = write_recipe("later", stages=[learns("pairs.jsonl", name="helpful"), align])
    assert train([str(file)]) == 0
    lines = (recipe.parent / "runs" / "later" / "02-grpo" / "metrics.jsonl").read_text().splitlines()
    before, first, second = map(json.loads, lines)
    assert "reward/liked" not in first
    assert "source/chats/groups" not in first
    assert second["source/chats/liked"] == second["reward/liked"] == second["watch/liked"]
    assert second["source/chats/groups"] == 0.5
    assert {"time/reward/accuracy", "time/reward/liked"} <= second.keys()
    assert before["evaluation/accuracy"] == before["evaluation/source/sums/accuracy"]
    assert "evaluation/source/chats/accuracy" not in before


def test_another_reward_model_is_noticed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train([str(recipe), "--until", "03-grpo", "--set", "stages.2.steps=1"]) == 0
    config = recipe.parent / "runs" / "tiny" / "01-reward_model" / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    capsys.readouterr()
    assert train([str(recipe), "--until", "03-grpo", "--set", "stages.2.steps=1"]) == 2
    assert "03-grpo: the reward model 01-reward_model has changed since this stage began" in capsys.readouterr().err


def test_an_evaluation_makes_its_rewards_once_for_all_models_and_templates(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    made = tmp_path / "made"
    (tmp_path / "counted.py").write_text(
        "from pathlib import Path\n"
        "class Counted:\n"
        "    def __init__(self):\n"
        f"        made = Path({str(made)!r})\n"
        "        made.write_text(('x' + made.read_text()) if made.exists() else 'x')\n"
        "    def __call__(self, completion: str) -> float:\n"
        "        return 0.0\n"
    )
    evaluate = {"kind": "evaluate", "limit": 2, "samples": 0, "max_new_tokens": 4}
    evaluate |= {"rewards": [{"name": "accuracy"}, {"name": "counted.py:Counted"}]}
    sft = {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3}
    counts = []
    for name, models, templates in (
        ("one", ["base"], ["training"]),
        ("all", ["base", "01-sft"], ["training", "native"]),
    ):
        made.unlink(missing_ok=True)
        asked = evaluate | {"models": models, "templates": templates}
        assert train([str(write_recipe(name, stages=[sft, asked]))]) == 0
        counts.append(len(made.read_text()))
    assert counts[0] == counts[1] > 0


def test_where() -> None:
    assert matches({"set": "a"}, {"set": "a"})
    assert not matches({"set": "a"}, {"set": "b"})
    assert not matches({"set": "a"}, {})
    assert matches({"set": ["a", "b"], "level": 2}, {"set": "b", "level": 2})
    assert not matches({"level": 1}, {"level": True})
    assert not matches({"level": 1}, {"level": "1"})
    assert matches({}, {})


def test_a_where_that_matches_nothing_is_a_mistake() -> None:
    reward = load_reward(RewardSettings(name="accuracy", where={"set": "reason"}))
    problems = [Problem("p", "x", {"set": "reasoning", "answer": "1"}), Problem("q", "y", {"set": "helpful"})]
    with pytest.raises(UserError, match=r"where \(\{'set': 'reason'\}\) matches none of 2 problems .*set, answer"):
        check_reward(reward, problems)
    check_reward(load_reward(RewardSettings(name="accuracy", where={"set": "reasoning"})), problems)
    with pytest.raises(UserError, match="needs answer or reasoning_gym"):
        check_reward(load_reward(RewardSettings(name="accuracy", where={"set": "helpful"})), problems)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("stages.2.rewards.3.options.model=02-rewardmodel", ("02-rewardmodel", "01-reward_model, 02-reward_model")),
        ("stages.2.rewards.3.options.model=./nowhere", ("no such model folder",)),
        ("stages.2.rewards.0.where={set: none}", ("reward accuracy", "matches none")),
        ("stages.2.rewards.0.where={set: []}", ("where",)),
        ("stages.3.models=[01-reward_model]", ("01-reward_model", "none of the models so far")),
    ],
)
def test_mistakes(recipe: Path, capsys: pytest.CaptureFixture[str], override: str, parts: tuple[str, ...]) -> None:
    assert train([str(recipe), "--set", override]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    for part in parts:
        assert part in error
