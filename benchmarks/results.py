"""Figures of variants that run side by side, as processes of their own: a JSON line each in a common file."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add(file: Path, record: dict[str, Any]) -> None:
    """Write one variant's figures in one piece, so that several processes may share a file."""
    with file.open("ab", buffering=0) as lines:
        lines.write(json.dumps(record).encode() + b"\n")


def read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Every variant that has finished."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def with_error(values: Sequence[float], form: str) -> str:
    """The mean and, of several values, its standard error."""
    mean = format(statistics.fmean(values), form)
    if len(values) < 2:
        return mean
    return f"{mean} ± {format(statistics.stdev(values) / len(values) ** 0.5, form.replace('+', ''))}"
