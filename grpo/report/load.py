"""The load of every expert over a stage's steps, as a picture of bytes."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo.doctor.chart import is_load
from grpo.lines import Place, rows_at, walk

COLUMNS = 160
"""The widest picture; of a longer stage, a column is the sum of several steps."""

EVEN = 64
"""The byte of an even load: four times as much, and more, is 255."""


def load_pictures(file: Path) -> dict[str, Any] | None:
    """One picture a router, experts by columns of steps, row by row in base64; None where there is no load.

    A byte is an expert's tokens as a multiple of an even load, times `EVEN`. The log is read twice, so that only the
    loads of one column are in memory.
    """
    places: dict[int, Place] = {}
    shapes: set[tuple[int, int]] = set()
    for place, row in walk(file):
        if row is not None and _is_step(row):
            places[row["step"]] = place
            shapes.add((len(row["load"]), len(row["load"][0])))
    if len(shapes) != 1:  # none, or a log of two models
        return None
    steps = sorted(places)
    size = -(-len(steps) // COLUMNS)
    columns = [steps[start : start + size] for start in range(0, len(steps), size)]
    sums = [_summed([row["load"] for row in rows_at(file, [places[s] for s in column])]) for column in columns]
    if not all(sums):  # the run goes on, and has just cut its log back
        return None
    ((_, experts),) = shapes
    return {
        "first_steps": [column[0] for column in columns],
        "steps_per_column": size,
        "experts": experts,
        "even": EVEN,
        "routers": [base64.b64encode(picture(each)).decode() for each in zip(*sums, strict=True)],
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


def _summed(loads: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The loads of a column of steps, router by router."""
    return [[sum(each) for each in zip(*router, strict=True)] for router in zip(*loads, strict=True)]


def _is_step(row: dict[str, Any]) -> bool:
    return isinstance(row.get("step"), int) and is_load(row.get("load"))
