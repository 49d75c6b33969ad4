"""Scores by the scorers of reasoning-gym's own tasks. They run in a worker: some search, and some call eval.

What those evaluate comes from a model or from a file, so it is screened: calls of anything but elementary functions,
attributes, lambdas, and whatever could hide them from the eye (escapes, comments between a name and its bracket).
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from reasoning_gym import get_score_answer_fn

WHOLE = 0.999
"""The score from which on an answer is right: polynomial_equations says to round down, and takes so much off for it."""

_HARMLESS = re.compile(r"a?(?:sin|cos|tan)h?|cot|sec|csc|exp|log|ln|sqrt|[Aa]bs")
_SUSPICIOUS = re.compile(r"__|\blambda\b|\bimport\b|[.]\s*[^\W\d]|[)\]}'\"]\s*\(|[\\#]")
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")


def gym_score(task: str, answer: str, entry: Mapping[str, Any], partial: bool) -> float:
    """The task's own score in 0..1, 1 from `WHOLE` on; without `partial` 0 for whatever is below.

    An answer that would run code in a scorer that evaluates it scores 0.

    Raises ValueError where the entry, which is data, would.
    """
    scorer, evaluates = _scorer(task)
    if evaluates and runs_code(answer):
        return 0.0
    # An entry may leave an integral as it is. A model may not: the derivative of that is always right.
    if evaluates and any(runs_code(text.replace("Integral(", "(")) for text in _evaluated(entry)):
        raise ValueError(f"reasoning_gym: the entry of a problem of {task} would run code in the task's scorer")
    score = float(scorer(answer=answer, entry=dict(entry)))
    return 1.0 if score >= WHOLE else score if partial else 0.0


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
def _scorer(task: str) -> tuple[Callable[..., Any], bool]:
    scorer = get_score_answer_fn(task)
    source = inspect.getsource(inspect.getmodule(scorer) or scorer)
    return scorer, bool(re.search(r"\beval\(|\bparse_expr\(|\bsympify\(", source))
