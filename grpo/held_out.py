"""How right a policy is on problems it never trained on."""

from collections.abc import Sequence
from typing import Literal

from grpo.data import ProblemSet, in_turns
from grpo.recorded import answer_figures, greedy_accuracy, recorded
from grpo.rollout.engine import Engine, Sampling
from grpo.run import StageRun
from grpo.task import Task, ask, judge
from grpo.types import Problem, ScoredGroup, UserError


def chosen_problems(every: ProblemSet, part: Literal["held_out", "train", "all"]) -> tuple[Problem, ...]:
    """The problems of one part, or of both, by turns of a mixture's sources. Raises UserError when there are none."""
    held_out = every.held_out if part != "train" else ()
    problems = held_out + (in_turns(every.train) if part != "held_out" else ())
    if not problems:
        raise UserError(f"problems: expected {part} problems to evaluate on, got none: raise held_out or add data")
    return problems


def greedy(
    task: Task, engine: Engine, run: StageRun, problems: Sequence[Problem], max_new_tokens: int, stop: Sequence[str]
) -> list[ScoredGroup]:
    """Answer every problem once, taking the likeliest token each time, and score the answers."""
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens, stop=tuple(stop))
    groups = ask(task, engine, run, problems, sampling, 1, 0)
    return judge(task, groups, run, 0).groups


def greedy_figures(scored: Sequence[ScoredGroup], accuracy: str) -> dict[str, float]:
    """Accuracy with its 95 % Wilson interval, the mean of every reward, length, and the count of unscorable answers."""
    answers = [recorded(group, 0, accuracy) for group in scored]
    return greedy_accuracy(answers) | answer_figures(answers)


def accuracy_of_sources(scored: Sequence[ScoredGroup], accuracy: str) -> dict[str, float]:
    """The share of right greedy answers of each source of a mixture."""
    figures: dict[str, float] = {}
    for source in sorted({group.group.problem.source for group in scored} - {""}):
        own = [recorded(group, 0, accuracy) for group in scored if group.group.problem.source == source]
        measured = greedy_accuracy(own)
        figures |= {f"source/{source}/accuracy": measured["accuracy"]} if measured else {}
    return figures
