"""Scores by the scorers of reasoning-gym's own tasks, in a worker: some search, and some evaluate what they are given.

What those evaluate comes from a model or from a file. Before a scorer is used, its module's `eval` and sympy's
`parse_expr` are replaced there: by an evaluator of literals and integer arithmetic, and by a parser that is only given
numbers, names of one letter, elementary functions and signs.
"""

import ast
import inspect
import json
import operator
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from reasoning_gym.factory import DATASETS

from grpo.types import one_line

ROUNDED = {"polynomial_equations": 0.999}
"""The score from which on an answer is right, where that is not 1: the question says to round down, which takes so much
off."""

INTEGRATIONS = ("simple_integration", "intermediate_integration")
"""Tasks whose entries may leave an integral as it is. A model may not: the derivative of that is always right."""

FILES = ("data_file",)
"""Parameters that name a file: no scorer reads it, and data that names one is not to decide what is opened."""


def gym_score(
    task: str, answer: str, entry: Mapping[str, Any], partial: bool, params: Mapping[str, Any] | None = None
) -> float:
    """The task's own score in 0..1, as the task is with `params`; without `partial` 0 for whatever is not right.

    An answer that the scorer cannot read, or that holds more than it may evaluate, scores 0.

    Raises ValueError where the entry, which is data, cannot be scored.
    """
    known = {name: value for name, value in (params or {}).items() if name not in FILES}
    scorer = _scorer(task, json.dumps(known, sort_keys=True))
    if task in INTEGRATIONS and "Integral" in unicodedata.normalize("NFKC", answer):
        return 0.0
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


# --- scorers that evaluate --------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _scorer(task: str, params: str) -> Callable[..., Any]:
    """The scorer of a task with parameters, a JSON object; what its module evaluates, it evaluates harmlessly."""
    if task not in DATASETS:
        raise ValueError(f"reasoning_gym: there is no task {task!r}")
    made, settings = DATASETS[task]
    scorer: Callable[..., Any] = made(config=settings(**json.loads(params))).score_answer
    module = inspect.getmodule(scorer)
    assert module is not None, f"{task} has no module"
    names = vars(module)
    names["eval"] = literal
    for name, value in list(names.items()):
        if name == "parse_expr" and getattr(value, "__module__", "").startswith("sympy"):
            names[name] = parsed
        elif isinstance(value, ModuleType) and value.__name__ == "sympy":
            names[name] = _Sympy(value)
    return scorer


class _Sympy:
    """Sympy as a scorer's module knows it, with another `parse_expr` and nothing else that evaluates text."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name in ("sympify", "S", "parsing"):
            raise AttributeError(f"sympy.{name} evaluates text")
        return parsed if name == "parse_expr" else getattr(self._module, name)


_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_NAME = r"(?:[A-Za-z]|pi|a?(?:sin|cos|tan)h?|cot|sec|csc|exp|log|ln|sqrt|[Aa]bs|Integral)(?![A-Za-z_])"
_EXPRESSION = re.compile(rf"(?:{_NUMBER}|{_NAME}|[-+*/^(),!\s])*+")
MAX_CHARS = 2_000


def parsed(text: str, local_dict: dict[str, Any] | None = None) -> Any:
    """What sympy makes of an expression. Raises ValueError where it holds anything but numbers, names and signs."""
    from sympy.parsing.sympy_parser import parse_expr

    text = unicodedata.normalize("NFKC", text)
    if len(text) > MAX_CHARS or not _EXPRESSION.fullmatch(text):
        raise ValueError("more than numbers, names of one letter, elementary functions and signs")
    return parse_expr(text, local_dict=local_dict)


def literal(text: str) -> Any:
    """The value of a Python literal, or of integer arithmetic on some. Raises ValueError for anything else."""
    return _value(ast.parse(text.strip(), mode="eval").body)


_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
MAX_SHIFT = 10_000


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left), _value(node.right)
        shifts = isinstance(node.op, ast.LShift | ast.RShift)
        if isinstance(left, int) and isinstance(right, int) and not (shifts and right > MAX_SHIFT):
            return _OPERATIONS[type(node.op)](left, right)
    raise ValueError("more than a literal")
