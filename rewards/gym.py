"""Scores by the scorers of reasoning-gym's own tasks. They run in a worker: some search, and some call eval."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from reasoning_gym import get_score_answer_fn

_HARMLESS = re.compile(r"a?(?:sin|cos|tan)h?|cot|sec|csc|exp|log|ln|sqrt|[Aa]bs")
_SUSPICIOUS = re.compile(r"__|\blambda\b|\bimport\b|[.][^\W\d]|[)\]]\s*\(")
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")


def gym_score(task: str, answer: str, entry: Mapping[str, Any]) -> float:
    """The task's own score in 0..1. An answer that would run code in a scorer that evaluates it scores 0."""
    scorer, evaluates = _scorer(task)
    if evaluates and runs_code(answer):
        return 0.0
    return float(scorer(answer=answer, entry=dict(entry)))


def runs_code(answer: str) -> bool:
    """Whether evaluating the text could do more than arithmetic on literals: calls, attributes, lambdas."""
    return bool(_SUSPICIOUS.search(answer)) or not all(map(_HARMLESS.fullmatch, _CALL.findall(answer)))


@cache
def _scorer(task: str) -> tuple[Callable[..., Any], bool]:
    scorer = get_score_answer_fn(task)
    source = inspect.getsource(inspect.getmodule(scorer) or scorer)
    return scorer, bool(re.search(r"\beval\(|\bparse_expr\(|\bsympify\(", source))
