"""Scores by the scorers of reasoning-gym's own tasks. They run in a worker: some search, and some call eval.

What those evaluate comes from a model or from a file, so it is screened: calls of anything but elementary functions,
attributes, lambdas, and whatever could hide them from the eye (escapes, comments between a name and its bracket).
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from reasoning_gym.factory import DATASETS

from grpo.types import one_line

ROUNDED = {"polynomial_equations": 0.999}
"""The score from which on an answer is right, where that is not 1: the question says to round down, which takes so much
off."""

_HARMLESS = re.compile(r"a?(?:sin|cos|tan)h?|cot|sec|csc|exp|log|ln|sqrt|[Aa]bs")
_SUSPICIOUS = re.compile(r"__|\blambda\b|\bimport\b|[.]\s*[^\W\d]|[)\]}'\"]\s*\(|[\\#]")
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")


def gym_score(
    task: str, answer: str, entry: Mapping[str, Any], partial: bool, params: Mapping[str, Any] | None = None
) -> float:
    """The task's own score in 0..1, as the task is with `params`; without `partial` 0 for whatever is not right.

    An answer that would run code in a scorer that evaluates it, or that the scorer cannot read, scores 0.

    Raises ValueError where the entry, which is data, would run code or cannot be scored.
    """
    scorer, evaluates = _scorer(task, json.dumps(params or {}, sort_keys=True))
    if evaluates and runs_code(answer):
        return 0.0
    # An entry may leave an integral as it is. A model may not: the derivative of that is always right.
    if evaluates and any(runs_code(text.replace("Integral(", "(")) for text in _evaluated(entry)):
        raise ValueError(f"reasoning_gym: the entry of a problem of {task} would run code in the task's scorer")
    score = _scored(scorer, task, answer, _as_made(task, entry))
    if score >= ROUNDED.get(task, 1.0):
        return float(task not in _STRICTER or _STRICTER[task](answer, entry))
    return score if partial else 0.0


def _scored(scorer: Callable[..., Any], task: str, answer: str, entry: Mapping[str, Any]) -> float:
    """What the scorer says, 0 where it raises: it may not read what a model writes, but must read the right answer."""
    try:
        return float(scorer(answer=answer, entry=dict(entry)))
    except MemoryError:
        raise
    except Exception:
        try:
            if entry.get("answer"):
                scorer(answer=entry["answer"], entry=dict(entry))
        except Exception as error:
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"reasoning_gym: {task} cannot score its problem's own answer: {said}") from error
        return 0.0


def _as_made(task: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry as its task makes it: JSON has no tuples, and boards are compared as tuples."""
    if task not in ("arc_agi", "rearc"):
        return entry
    boards = {name: tuple(map(tuple, entry["metadata"][name])) for name in ("input", "output")}
    return {**entry, "metadata": {**entry["metadata"], **boards}}


def _numbers(answer: str) -> list[float]:
    return [float(number) for number in json.loads(answer.replace("'", '"'))]


_STRICTER: Mapping[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "complex_arithmetic": lambda answer, _: re.search(r"nan|inf", answer, re.IGNORECASE) is None,
    "game_of_life_halting": lambda answer, entry: answer.strip().lower() == str(entry["answer"]).lower(),
    "number_sorting": lambda answer, entry: _numbers(answer) == _numbers(entry["answer"]),
    "puzzle24": lambda answer, entry: (
        sorted(map(int, re.findall(r"\d+", answer))) == sorted(entry["metadata"]["numbers"])
    ),
    "word_sorting": lambda answer, entry: answer.count(",") == len(entry["metadata"]["sorted_words"]) - 1,
}
"""What an answer must be besides, where a task's scorer gives 1 for what is none: for any text, for other numbers than
those of the puzzle, for values that are off by one, for words too many, for nan."""


def runs_code(answer: str) -> bool:
    """Whether evaluating the text could do more than arithmetic on literals: calls, attributes, lambdas."""
    return bool(_SUSPICIOUS.search(answer)) or not all(map(_HARMLESS.fullmatch, _CALL.findall(answer)))


def _evaluated(value: Any, name: str = "") -> Iterator[str]:
    """The texts of an entry but the question, which no scorer evaluates."""
    if isinstance(value, str) and name != "question":
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _evaluated(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _evaluated(part)


@cache
def _scorer(task: str, params: str) -> tuple[Callable[..., Any], bool]:
    """The scorer of a task with parameters, a JSON object, and whether it evaluates what it is given."""
    if task not in DATASETS:
        raise ValueError(f"reasoning_gym: there is no task {task!r}")
    made, settings = DATASETS[task]
    scorer = made(config=settings(**json.loads(params))).score_answer
    source = inspect.getsource(inspect.getmodule(scorer) or scorer)
    return scorer, bool(re.search(r"\beval\(|\bparse_expr\(|\bsympify\(", source))
