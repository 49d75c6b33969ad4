"""Logs as they are found: a run may be going on, or have died in the middle of a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Place(NamedTuple):
    """Where a line lies in its file."""

    offset: int
    size: int


@dataclass(frozen=True)
class Log:
    """The rows of a log, and how many of its lines could not be read. A last line that is cut off does not count."""

    rows: list[Row]
    broken: int = 0


def read_log(path: Path) -> Log:
    """Every row of a log; none where there is no file."""
    found = [row for _, row in walk(path)]
    return Log([row for row in found if row is not None], found.count(None))


def walk(path: Path) -> Iterator[tuple[Place, Row | None]]:
    """Every line with its row, None where it is no JSON object."""
    if not path.is_file():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            row = _row(line)
            if row is not None or (line.endswith(b"\n") and line.strip()):
                yield Place(offset, len(line)), row
            offset += len(line)


def rows_at(path: Path, places: list[Place]) -> Iterator[Row]:
    """The rows at places that `walk` found."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place.offset)
            row = _row(file.read(place.size))
            if row is not None:  # a run that goes on may have cut its log back since
                yield row


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
