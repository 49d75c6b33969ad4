"""R1-Zero's recipes say what they would do, its accuracy is strict, and the clock beside TRL reads what runs leave."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import reasoning_gym
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grpo.cli import train
from grpo.plugins import load_object

ROOT = Path(__file__).parents[1]
RIGHT = "<think>4 + 3 = 7</think><answer>7</answer>"
GSM8K = f"path: {ROOT / 'tests' / 'gsm8k_sample.jsonl'}, columns: {{prompt: question}}"
SMALL: dict[str, list[str]] = {
    "r1_zero_qwen2.5-0.5b_gsm8k": [f"problems={{{GSM8K}}}", f"stages.1.problems={{{GSM8K}, held_out: 0}}"],
    "r1_zero_qwen2.5-3b_countdown": ["problems.size=100"],
    "r1_zero_smollm2": [],
}
"""Recipes, and what takes the place of a hub's data."""


@pytest.fixture(scope="module")
def model_path(
    tiny_model: Callable[..., PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: Any
) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_model("llama", max_position_embeddings=8192).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clock() -> ModuleType:
    """The module benchmarks/time_to_reward.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("time_to_reward")


@pytest.mark.parametrize("name", SMALL)
def test_the_recipes_say_what_they_would_do(name: str, model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"model.path={model_path}", *SMALL[name]]
    recipe = ROOT / "recipes" / f"{name}.yaml"
    assert train([str(recipe), "--dry-run", *(f"--set={one}" for one in overrides)]) == 0
    assert "completions a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (RIGHT, 1.0),
        ("<think>4 + 3 = 8</think><answer>8</answer>", 0.0),
        ("7", 0.0),  # right, and no form
        ("<answer>7</answer>", 0.0),
        (RIGHT + " So 7.", 0.0),
    ],
)
def test_only_a_right_answer_in_form_is_right(completion: str, reward: float) -> None:
    right_in_form = load_object(f"{ROOT / 'examples' / 'right_in_form.py'}:right_in_form")
    assert right_in_form(completion, "7") == reward


def test_what_the_task_pays_for_a_wrong_sign_does_not_count() -> None:
    """The scorer of chain_sum gives half for -4 where 4 is right."""
    right_in_form = load_object(f"{ROOT / 'examples' / 'right_in_form.py'}:right_in_form")
    problem = {"task": "chain_sum", "entry": {"question": "9 - 5 =", "answer": "4"}}
    said = [f"<think>9 - 5 = {answer}</think><answer>{answer}</answer>" for answer in (4, -4)]
    assert [right_in_form(completion, "4", problem) for completion in said] == [1.0, 0.0]
    assert [right_in_form(completion, "4", problem, partial=True) for completion in said] == [1.0, 0.5]
    assert right_in_form("-4", "4", problem, partial=True) == 0.0  # no form


def test_sums_that_go_below_zero_ask_and_answer_as_chain_sum_does() -> None:
    """So what is held out of chain_sum is held out of them: the split goes by the question's words."""
    negative = load_object(f"{ROOT / 'examples' / 'negative_sums.py'}:negative_sums")
    rows = {row["prompt"]: row["answer"] for row in negative()}
    assert len(rows) == 45 + 900
    terms = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    asked = {e["question"]: e["answer"] for e in reasoning_gym.create_dataset("chain_sum", size=2000, seed=1, **terms)}
    both = rows.keys() & asked.keys()
    assert len(both) > 200
    assert {prompt: rows[prompt] for prompt in both} == {prompt: asked[prompt] for prompt in both}


# --- the clock beside TRL ---------------------------------------------------------------------------------------------


def steps(seconds: float, *rewards: float) -> list[dict[str, float]]:
    """A line every so many seconds."""
    return [{"step": i, "seconds": i * seconds, "reward": reward} for i, reward in enumerate(rewards, 1)]


def write(file: Path, rows: list[dict[str, float]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_time_to_reward_is_when_the_mean_of_the_last_steps_is_as_high() -> None:
    figures = ROOT / "benchmarks" / "time_to_reward_report.py"
    smoothed, reached = load_object(f"{figures}:smoothed"), load_object(f"{figures}:reached")
    rows = [{"step": 0, "seconds": 5.0, "accuracy": 0.1}, *steps(10, 0.0, 1.0, 0.0, 1.0, 1.0)]
    assert smoothed(rows, 2) == [(20, 0.5), (30, 0.5), (40, 0.5), (50, 1.0)]
    assert reached(rows, 0.5, 2) == 20
    assert reached(rows, 0.9, 2) == 50
    assert reached(rows, 1.1, 2) is None


def test_the_report_says_ratios_and_draws(
    clock: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trl = {0: steps(100, 0.2, 0.4, 0.6), 1: steps(100, 0.2, 0.8, 0.2, 0.8)}  # 0.5 after 300 seconds, and after 200
    for seed, every in (0, 10), (1, 5):
        write(tmp_path / f"trl-{seed}.jsonl", trl[seed])
        write(tmp_path / f"ours-{seed}.jsonl", steps(every, 0.0, 0.4, 0.6, 0.9))  # 0.5 at the third step
    clock.main(["-", "--seeds", "0", "1", "--window", "2", "--out", str(tmp_path), "--report"])
    said = capsys.readouterr().out
    assert "seed 1: TRL ends after 400 s with a reward of 0.500, which it first had after 200 s" in said
    assert "here after 30 s, 10.00 times as fast; a step takes 10.0 s, TRL's 100.0 s" in said
    assert "median of 2 seeds: 11.67 times as fast" in said  # 300 / 30 and 200 / 15
    assert (tmp_path / "time_to_reward.svg").read_text().startswith("<?xml")


def test_a_recipe_that_trl_cannot_follow_is_refused(
    clock: ModuleType, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    changes = ["minibatches_per_step=2", "off_policy_mask={}", "loss.aggregation=token-mean", "advantage.ddof=0"]
    given = [f"--set=stages.1.{one}" for one in (*changes, "lr=1")]
    named = "minibatches_per_step, off_policy_mask, a start other .*, loss settings .*, advantage settings .*, "
    with pytest.raises(SystemExit, match=named) as refused:
        clock.main([str(write_recipe()), *given, "--out", str(tmp_path)])
    assert "a model made from scratch" in str(refused.value)
    assert "lr," not in str(refused.value)
