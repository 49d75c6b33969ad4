"""How right a policy is on problems it never trained on."""

from collections.abc import Iterable, Sequence
from typing import Literal

from grpo.evaluation import wilson_interval
from grpo.rollout.collect import draft_figures
from grpo.rollout.engine import Engine, Sampling
from grpo.run import StageRun
from grpo.task import Task, ask, judge
from grpo.types import Problem, Score, ScoredGroup, UserError

RIGHT = 1.0
"""The value of an accuracy reward from which on an answer counts as right."""


def is_right(score: Score, accuracy: str) -> bool:
    """Whether the reward named `accuracy` found the answer right. An answer it failed on is not right."""
    value = score.parts.get(accuracy)
    return value is not None and value >= RIGHT


def applicable(scores: Iterable[Score], reward: str) -> list[Score]:
    """The scores of answers that the reward is there to judge: a question without a right answer has no accuracy."""
    return [score for score in scores if score.status.get(reward) != "not_applicable"]


def chosen_problems(task: Task, part: Literal["held_out", "train"]) -> tuple[Problem, ...]:
    """The problems of one part. Raises UserError when there are none."""
    problems = task.problems.held_out if part == "held_out" else task.problems.train
    if not problems:
        raise UserError(f"problems: expected {part} problems to evaluate on, got none: raise held_out or add data")
    return problems


def greedy(
    task: Task, engine: Engine, run: StageRun, problems: Sequence[Problem], max_new_tokens: int, stop: Sequence[str]
) -> list[ScoredGroup]:
    """Answer every problem once, taking the likeliest token each time, and score the answers."""
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens, stop=tuple(stop))
    groups = ask(task, engine, run, problems, sampling, 1, 0)
    return judge(task, groups, run.accelerator).groups


def greedy_figures(scored: Sequence[ScoredGroup], accuracy: str) -> dict[str, float]:
    """Accuracy with its 95 % Wilson interval, the mean of every reward, length, and the count of unscorable answers.

    Accuracy is of the problems that its reward applies to. Raises UserError when there is none.
    """
    scores = [group.scores[0] for group in scored]
    judged = applicable(scores, accuracy)
    right = sum(is_right(score, accuracy) for score in judged)
    if not judged:
        raise UserError(
            f"evaluation: the reward {accuracy} applies to none of {len(scores)} problems: name another one"
        )
    low, high = wilson_interval(right, len(judged))
    figures = {"accuracy": right / len(judged), "accuracy_low": low, "accuracy_high": high}
    for name in scores[0].parts:
        values = [value for score in scores if (value := score.parts[name]) is not None]
        figures |= {f"reward/{name}": sum(values) / len(values)} if values else {}
    lengths = [len(group.group.completions[0].token_ids) for group in scored]
    figures["completion/length_mean"] = sum(lengths) / len(lengths)
    figures["unscorable"] = float(sum(score.total is None for score in scores))
    figures["problems"] = float(len(scores))
    return figures | draft_figures([group.group.completions[0] for group in scored])
