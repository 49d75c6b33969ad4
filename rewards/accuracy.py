"""Whether the final answer is right: exact comparison first, and what it leaves open in workers with a time limit."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo.rewards.answers.compare import EXACT, Tolerance
from grpo.rewards.answers.judge import judged, readable, trimmed
from grpo.rewards.extraction import Answer, boxed_answer, free_answer, mathematical_answer
from grpo.rewards.pool import run_all
from grpo.rewards.symbolic import equivalent, within_limits
from grpo.rewards.verdict import Noted
from grpo.settings import NonNegative, Positive
from grpo.types import one_line

MAX_CHARS = 4_000
"""Of an answer, or of the beginning of a gold one, that is read; a longer answer is right if it is the gold's text."""

SENTENCES = 8
"""Words from which on a text with the end of a sentence inside it is no name."""
_SENTENCE_ENDS = re.compile(r"[^\W_A-Z]{2,}[.!?]\s+[A-Z\d]")

Verdict = float | Exception
"""1 or 0 (or a task's own score), or why there is none: TimeoutError for a case that took too long."""


@dataclass(frozen=True)
class _Open:
    """A case that is left to a worker: the call that decides it."""

    fn: Callable[..., bool | float]
    arguments: tuple[Any, ...]
    rule: str


def accuracy(
    completions: Sequence[str],
    reasoning_gym: Sequence[Mapping[str, Any] | None] | None = None,
    *,
    column: str = "answer",
    partial: bool = False,
    seconds: Positive = 3.0,
    absolute_tolerance: NonNegative = 0.0,
    relative_tolerance: NonNegative = 0.0,
    **columns: Sequence[Any],
) -> list[Verdict]:
    """1 for a completion whose final answer equals the gold answer in `column`, else 0.

    A problem of a reasoning-gym task, with `reasoning_gym` = {"task": name, "params": its parameters, "entry": entry},
    is scored by the task. Some tasks give a part of 1 for a wrong answer, chain_sum half of it for -4 where 4 is right:
    with `partial` that counts. `seconds` limits every symbolic comparison. Numbers are compared exactly, unless a
    tolerance is given. A gold answer that nobody can read is an error of that completion. Every number is noted with
    the rule that found it.
    """
    golds = columns.get(column, [None] * len(completions))
    tasks = reasoning_gym or [None] * len(completions)
    tolerance = Tolerance(absolute_tolerance, relative_tolerance)
    cases = [
        _task_case(text, task, partial) if task else _gold_case(text, gold, tolerance)
        for text, task, gold in zip(completions, tasks, golds, strict=True)
    ]
    return _settled(cases, seconds)


def same_answers(pairs: Sequence[tuple[str, str]], tolerance: Tolerance = EXACT, seconds: float = 3.0) -> list[bool]:
    """Whether the second answer of each pair equals the first, taken as gold. What cannot be compared is not equal."""
    cases = [_compared(first, Answer(second, "whole_text"), tolerance) for first, second in pairs]
    return [verdict == 1.0 for verdict in _settled(cases, seconds)]


def _settled(cases: Sequence[Verdict | _Open], seconds: float) -> list[Verdict]:
    """Decide the open cases in workers. Completions of a group often agree, so each distinct call is made once."""
    distinct = {(case.fn, repr(case.arguments)): case for case in cases if isinstance(case, _Open)}
    decided: dict[tuple[Callable[..., Any], str], Any] = {}
    for fn in dict.fromkeys(fn for fn, _ in distinct):
        keys = [key for key in distinct if key[0] is fn]
        decided |= zip(keys, run_all(fn, [distinct[key].arguments for key in keys], seconds), strict=True)
    return [_closed(case, decided) if isinstance(case, _Open) else case for case in cases]


def _closed(case: _Open, decided: Mapping[tuple[Callable[..., Any], str], Any]) -> Verdict:
    result = decided[case.fn, repr(case.arguments)]
    return result if isinstance(result, Exception) else Noted(float(result), case.rule)


def gold_text(gold: Any) -> str:
    """The answer in a gold column: after GSM8K's `####`, or in a solution's last `\\boxed{}`, or all of it.

    Raises ValueError when there is no answer in it.
    """
    if isinstance(gold, list | tuple) and len(gold) == 1:
        gold = gold[0]
    if gold is None or isinstance(gold, bool | Mapping | list | tuple):
        raise ValueError(f"gold answer must be a text or a number, got {type(gold).__name__}")
    text = str(gold).rpartition("####")[2].strip()
    boxed = boxed_answer(text)
    text = boxed.strip() if boxed else text.removeprefix("<answer>").removesuffix("</answer>").strip()
    if not text:
        raise ValueError("gold answer is empty")
    if _SENTENCE_ENDS.search(text[:MAX_CHARS]) and len(text.split()) >= SENTENCES and not readable(text):
        raise ValueError(
            f"gold answer is sentences, which no answer equals: {text[:80]!r}: give the answer alone, after ####, or "
            "in \\boxed{}"
        )
    return text


def _gold_case(completion: str, gold: Any, tolerance: Tolerance) -> Verdict | _Open:
    try:
        expected = gold_text(gold)
    except ValueError as error:
        return error
    try:
        answer = mathematical_answer(completion)
        return Noted(0.0, "none") if answer is None else _compared(expected, answer, tolerance)
    except Exception as error:  # of one completion, or of its gold: the others of the batch have nothing to do with it
        return _unreadable(expected, tolerance, error)


def _unreadable(expected: str, tolerance: Tolerance, error: Exception) -> Verdict:
    """An answer that the reader fails on is wrong; a gold answer that it fails on is an error."""
    try:
        judged(expected, expected, tolerance)
    except Exception:
        return ValueError(f"gold answer {expected[:80]!r} cannot be read: {type(error).__name__}: {one_line(error)}")
    return Noted(0.0, "unreadable")


def _compared(expected: str, answer: Answer, tolerance: Tolerance) -> Verdict | _Open:
    if len(answer.text) > MAX_CHARS:
        return Noted(float(answer.text.strip() == expected), answer.rule)
    verdict = judged(expected, answer.text, tolerance)
    if verdict is not None:
        return Noted(float(verdict), answer.rule)
    if not within_limits(expected):
        return ValueError(f"gold answer is too long or too deeply nested to be compared: {expected[:80]}")
    if not within_limits(answer.text):
        return Noted(0.0, answer.rule)
    arguments = (trimmed(expected), trimmed(answer.text), tolerance.absolute, tolerance.relative)
    return _Open(equivalent, arguments, answer.rule)


def _task_case(completion: str, task: Any, partial: bool) -> Verdict | _Open:
    from grpo.rewards.gym import gym_score

    told = task if isinstance(task, Mapping) else {}
    name, entry, params = told.get("task"), told.get("entry"), told.get("params")
    if not (isinstance(name, str) and isinstance(entry, Mapping) and isinstance(params, Mapping | None)):
        return ValueError(f"reasoning_gym: expected a task's name and entry, got {one_line(repr(task), 80)}")
    answer = free_answer(completion)
    if answer is None:
        return Noted(0.0, "none")
    return _Open(gym_score, (name, answer.text, dict(entry), partial, params), answer.rule)
