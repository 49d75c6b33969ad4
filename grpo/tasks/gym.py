"""Problems of reasoning-gym, by the name of a task."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from grpo.types import UserError


def gym_rows(task: str, size: int, params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """`prompt`, `answer` and `reasoning_gym` = {"task", "params", "entry"}, which is what the task's own scorer needs.

    `answer` is empty where the task names no single right answer.

    Raises:
        UserError: reasoning-gym is not installed, has no such task, or the task refuses the parameters.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError(f"task {task}: needs the package reasoning-gym: pip install 'grpo-train[tasks]'") from None
    if task not in DATASETS:
        raise UserError(f"task {task}: reasoning-gym has no such task: {_nearest(task, DATASETS)}")
    known = {field.name for field in dataclasses.fields(DATASETS[task][1])} - {"size"}
    for name in params.keys() - known:
        raise UserError(f"task {task}: it has no parameter {name}: {_nearest(name, known)}")
    try:
        dataset = reasoning_gym.create_dataset(task, size=size, **params)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"task {task}: params were refused: {error}: correct params") from None
    for index in range(size):
        entry = dataset[index]
        answer = "" if entry["answer"] is None else str(entry["answer"])
        scored_by = {"task": task, "params": dict(params), "entry": _plain(entry)}
        yield {"prompt": entry["question"], "answer": answer, "reasoning_gym": scored_by}


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without its number, which no scorer needs: a question that a task makes twice is one problem."""
    metadata = {name: value for name, value in entry["metadata"].items() if name != "source_index"}
    return {**entry, "metadata": metadata}


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3) or sorted(known)
    return f"choose one of {', '.join(close)}"
