from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from torch import nn

from grpo.data import ProblemSet
from grpo.display import SilentDisplay
from grpo.evaluation import is_right
from grpo.held_out import chosen_problems, greedy, greedy_figures
from grpo.model_settings import ModelSettings
from grpo.problem_settings import TemplateSettings
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import load_rewards
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.run import StageRun
from grpo.task import Task
from grpo.templates import make_template
from grpo.types import Completion, Group, Problem, Score, ScoredGroup, UserError


def scored(length: int, total: float | None, **parts: float | None) -> ScoredGroup:
    completion = Completion("", (1,) * length, (0.0,) * length, "stop", 0)
    return ScoredGroup(Group(Problem(f"p{length}", "", {}), (1,), (completion,)), (Score(total, parts, {}),))


def test_what_counts_as_right() -> None:
    values = {1.0: True, 1.5: True, 0.99: False, 0.0: False, None: False}
    assert {value: is_right(Score(0.0, {"accuracy": value}, {}), "accuracy") for value in values} == values
    assert not is_right(Score(None, {}, {}), "accuracy")


def test_figures_by_hand() -> None:
    """3 of 4 right; Wilson's interval for 3 of 4 is 0.3006 to 0.9544."""
    answers = [
        scored(2, 1.2, accuracy=1.0, format=1.0),
        scored(4, 1.0, accuracy=1.0, format=0.0),
        scored(6, 1.0, accuracy=1.0, format=None),
        scored(8, None, accuracy=None, format=0.5),
    ]
    figures = greedy_figures(answers, "accuracy")
    assert figures == pytest.approx(
        {
            "accuracy": 0.75, "accuracy_low": 0.30064, "accuracy_high": 0.95441, "reward/accuracy": 1.0,
            "reward/format": 0.5, "completion/length_mean": 5.0, "completion/truncated": 0.0, "unscorable": 1.0,
            "problems": 4.0,
        },
        abs=1e-4,
    )  # fmt: skip


def test_a_reward_that_never_applied_has_no_figure() -> None:
    assert "reward/format" not in greedy_figures([scored(1, 1.0, accuracy=1.0, format=None)], "accuracy")


def task(train: int, held_out: int, tokenizer: Any) -> Task:
    problems = tuple(Problem(f"{i}", f"{i}+0=", {"answer": f"{i}"}) for i in range(train + held_out))
    prompts = {problem.id: (int(problem.id),) for problem in problems}
    known = ProblemSet(problems[:train], problems[train:], prompts, 0, 0)
    return Task(
        known,
        make_template(TemplateSettings(kind="plain"), tokenizer),
        load_rewards([RewardSettings(name="accuracy")]),
        conversational=False,
    )


def test_the_part_that_is_asked_for(byte_tokenizer: Any) -> None:
    both = task(3, 2, byte_tokenizer)
    assert [p.id for p in chosen_problems(both.problems, "train")] == ["0", "1", "2"]
    assert [p.id for p in chosen_problems(both.problems, "held_out")] == ["3", "4"]
    with pytest.raises(UserError, match="expected held_out problems to evaluate on, got none: raise held_out"):
        chosen_problems(task(3, 0, byte_tokenizer).problems, "held_out")


def test_the_first_of_a_mixture_are_of_all_its_sources(byte_tokenizer: Any) -> None:
    one = task(4, 0, byte_tokenizer)
    train = tuple(replace(p, source="a" if i < 3 else "b") for i, p in enumerate(one.problems.train))
    mixture = replace(one, problems=replace(one.problems, train=train))
    assert [p.id for p in chosen_problems(mixture.problems, "all")] == ["0", "3", "1", "2"]


class Scripted:
    """An engine that answers with the number of the prompt, and 7 to prompt 1."""

    def __init__(self) -> None:
        self.sampling: list[Sampling] = []

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        self.sampling.append(sampling)
        answers = [7 if request.prompt_ids == (1,) else request.prompt_ids[0] for request in requests]
        return [
            [Completion(f"\\boxed{{{answer}}}", (answer,), (0.0,), "stop", 0) for _ in request.seeds]
            for request, answer in zip(requests, answers, strict=True)
        ]

    def load_weights(self, model: nn.Module, version: int) -> None:
        raise AssertionError("an evaluation changes no weights")


def test_greedy_answers_once_and_is_judged(tmp_path: Path, byte_tokenizer: Any) -> None:
    engine, asked = Scripted(), task(3, 0, byte_tokenizer)
    run = StageRun(1, tmp_path, 0, ModelSettings(path="m"), "m", {}, Accelerator(cpu=True), SilentDisplay())
    answers = greedy(asked, engine, run, asked.problems.train, 5, ["stop"])
    assert engine.sampling == [Sampling(temperature=0.0, max_new_tokens=5, stop=("stop",))]
    assert [len(group.scores) for group in answers] == [1, 1, 1]
    assert [is_right(group.scores[0], "accuracy") for group in answers] == [True, False, True]
