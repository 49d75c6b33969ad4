"""Whether the final answer is right: exact comparison first, and what is left to sympy in workers with a time limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.rewards.equivalence import plain, same
from grpo.rewards.extraction import free_answer, last_boxed, mathematical_answer
from grpo.rewards.pool import run_all
from grpo.rewards.symbolic import equivalent, within_limits
from grpo.settings import Positive

Verdict = float | Exception
"""1 or 0 (or a task's own score), or why there is none: TimeoutError for a case that took too long."""


@dataclass(frozen=True)
class _Open:
    """A case that is left to a worker: the call that decides it."""

    fn: Callable[..., bool | float]
    arguments: tuple[Any, ...]


def accuracy(
    completions: Sequence[str],
    reasoning_gym: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    column: str = "answer",
    seconds: Positive = 5.0,
    **columns: Sequence[Any],
) -> list[Verdict]:
    """1 for a completion whose final answer equals the gold answer in `column`, else 0.

    A problem of a reasoning-gym task, with `reasoning_gym` = {"task": name, "entry": entry}, is scored by the task.
    `seconds` limits every symbolic comparison. A gold answer that nobody can read is an error of that completion.
    """
    golds = columns.get(column, [None] * len(completions))
    tasks = reasoning_gym or [None] * len(completions)
    cases = [
        _task_case(text, task) if task else _gold_case(text, gold)
        for text, task, gold in zip(completions, tasks, golds, strict=True)
    ]
    return _settled(cases, seconds)


def _settled(cases: Sequence[Verdict | _Open], seconds: float) -> list[Verdict]:
    """Decide the open cases in workers. Completions of a group often agree, so each distinct call is made once."""
    distinct = {(case.fn, repr(case.arguments)): case for case in cases if isinstance(case, _Open)}
    decided: dict[tuple[Callable[..., Any], str], Verdict] = {}
    for fn in dict.fromkeys(fn for fn, _ in distinct):
        keys = [key for key in distinct if key[0] is fn]
        results = run_all(fn, [distinct[key].arguments for key in keys], seconds)
        decided |= {k: r if isinstance(r, Exception) else float(r) for k, r in zip(keys, results, strict=True)}
    return [decided[case.fn, repr(case.arguments)] if isinstance(case, _Open) else case for case in cases]


def gold_text(gold: Any) -> str:
    """The answer in a gold column: after GSM8K's `####`, or in a solution's last `\\boxed{}`, or all of it.

    Raises ValueError when there is no answer in it.
    """
    if gold is None or isinstance(gold, bool | Mapping | list | tuple):
        raise ValueError(f"gold answer must be a text or a number, got {type(gold).__name__}")
    text = str(gold).rpartition("####")[2].strip()
    boxed = last_boxed(text)
    text = boxed.strip() if boxed else text
    if not text:
        raise ValueError("gold answer is empty")
    return text


def _gold_case(completion: str, gold: Any) -> Verdict | _Open:
    try:
        expected = gold_text(gold)
    except ValueError as error:
        return error
    answer = mathematical_answer(completion)
    verdict = same(expected, answer.text) if answer else False
    if answer is None or verdict is not None:
        return float(bool(verdict))
    if not within_limits(expected):
        return ValueError(f"gold answer is too long or too deeply nested to be compared: {expected[:80]}")
    return _Open(equivalent, (plain(expected), plain(answer.text))) if within_limits(answer.text) else 0.0


def _task_case(completion: str, task: Mapping[str, Any]) -> Verdict | _Open:
    from grpo.rewards.gym import gym_score

    answer = free_answer(completion)
    return _Open(gym_score, (task["task"], answer.text, dict(task["entry"]))) if answer else 0.0
