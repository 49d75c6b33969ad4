"""A question that is evaluated as held out is trained on nowhere before. Hashes of "q0" to "q99" decide the parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.chain import chain
from grpo.data import split
from grpo.leaks import check_leaks
from grpo.recipe_file import load_recipe
from grpo.sources import read_problems
from grpo.types import UserError

SFT = {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3}
EVALUATE = {"kind": "evaluate", "samples": 0, "max_new_tokens": 8}
GRPO = {"kind": "grpo", "steps": 1, "prompts_per_step": 2, "completions_per_prompt": 2, "lr": 1e-3}


@pytest.fixture
def check(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., None]:
    """Check a recipe of these stages, whose problems hold out a fifth where they do not say otherwise."""
    rows = [{"prompt": f"q{i}", "answer": "1", "completion": "1"} for i in range(100)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def check(*stages: dict[str, Any]) -> None:
        problems = {"path": str(tmp_path / "data.jsonl"), "held_out": 0.2, "template": {"kind": "plain"}}
        filled = [s | ({"problems": problems | s["problems"]} if "problems" in s else {}) for s in stages]
        recipe = load_recipe(write_recipe(problems=problems, stages=filled))
        check_leaks(chain(recipe), recipe.seed)

    return check


def test_a_smaller_share_held_out_before_is_refused_with_the_count(check: Callable[..., None], tmp_path: Path) -> None:
    check(SFT, EVALUATE)
    check(SFT | {"problems": {"held_out": 0.3}}, EVALUATE)
    with pytest.raises(UserError) as said:
        check(SFT | {"problems": {"held_out": 0.1}}, EVALUATE)
    settings = load_recipe(tmp_path / "tiny.yaml").stages[1].problems
    problems = read_problems(settings)
    count = len(split(problems, 0.2)[1]) - len(split(problems, 0.1)[1])
    assert count > 3
    assert f"stages[1]: holds out {count} questions that 01-sft has in its training part, as 'q" in str(said.value)
    assert str(said.value).endswith("say held_out: 0.2 there, as here")


def test_what_is_evaluated_while_training_counts_too(check: Callable[..., None]) -> None:
    leaky = SFT | {"problems": {"held_out": 0}}
    check(leaky, GRPO | {"start": "previous"})
    with pytest.raises(UserError, match=r"stages\[1\]: holds out \d+ questions that 01-sft has in its training part"):
        check(leaky, GRPO | {"evaluation": {"every": 1, "problems": 2}})


def test_only_stages_that_the_models_come_from_count(check: Callable[..., None]) -> None:
    leaky = SFT | {"name": "leaky", "problems": {"held_out": 0}}
    after = SFT | {"name": "after"}
    check(leaky, after | {"start": "base"}, EVALUATE | {"models": ["base", "after"]})
    check(EVALUATE | {"models": ["base"]}, leaky)
    check(leaky, EVALUATE | {"part": "train"})
    for models in ["leaky"], ["after"]:
        with pytest.raises(UserError, match="that 01-leaky has in its training part"):
            check(leaky, after, EVALUATE | {"models": models})


def test_samples_that_are_not_decontaminated_count_as_what_was_asked(check: Callable[..., None]) -> None:
    rejection = {"kind": "rejection", "samples": 2, "max_new_tokens": 8, "keep_if": {"accuracy": 1}}
    rejection |= {"problems": {"held_out": 0}}
    taught = SFT | {"problems": {"stage": "rejection", "path": None, "held_out": 0}}
    check(rejection, taught, EVALUATE)
    with pytest.raises(UserError, match="that 02-sft has in its training part"):
        check(rejection | {"decontaminate": None}, taught, EVALUATE)


def test_other_questions_are_no_leak(check: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "another", "answer": "1", "completion": "1"}) + "\n")
    check(SFT | {"problems": {"path": str(tmp_path / "other.jsonl"), "held_out": 0}}, EVALUATE)
