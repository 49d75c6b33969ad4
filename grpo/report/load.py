"""The load of every expert over a stage's steps, as a picture of bytes."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.report.lines import walk

COLUMNS = 160
"""The widest picture; of a longer stage, a column is the sum of several steps."""

EVEN = 64
"""The byte of an even load: four times as much, and more, is 255."""


def load_pictures(file: Path) -> dict[str, Any] | None:
    """One picture a router, experts by columns of steps, row by row in base64; None where there is no load.

    A byte is an expert's tokens as a multiple of an even load, times `EVEN`.
    """
    loads = [(row["step"], row["load"]) for _, row in walk(file) if row is not None and _is_load(row)]
    newest = dict(loads)
    steps = sorted(newest)
    shapes = {(len(load), len(load[0])) for load in newest.values()}
    if len(shapes) != 1:  # none, or a log of two models
        return None
    size = -(-len(steps) // COLUMNS)
    columns = [steps[start : start + size] for start in range(0, len(steps), size)]
    ((routers, experts),) = shapes
    sums = [[_summed([newest[step][router] for step in column]) for column in columns] for router in range(routers)]
    return {
        "first_steps": [column[0] for column in columns],
        "steps_per_column": size,
        "experts": experts,
        "even": EVEN,
        "routers": [base64.b64encode(picture(each)).decode() for each in sums],
    }


def picture(columns: Sequence[Sequence[float]]) -> bytes:
    """Loads, columns of experts, as rows of bytes.

    >>> list(picture([[1, 3], [4, 0]]))
    [32, 128, 96, 0]
    """
    bytes_of = [[_byte(load * len(column), sum(column)) for load in column] for column in columns]
    return bytes(value for row in zip(*bytes_of, strict=True) for value in row)


def _byte(load: float, total: float) -> int:
    return min(255, round(EVEN * load / total)) if total else 0


def _summed(loads: Sequence[Sequence[float]]) -> list[float]:
    return [sum(each) for each in zip(*loads, strict=True)]


def _is_load(row: dict[str, Any]) -> bool:
    load = row.get("load")
    return isinstance(row.get("step"), int) and isinstance(load, list) and bool(load) and bool(load[0])
