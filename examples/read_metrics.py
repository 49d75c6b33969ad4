"""Prints the figures of a run, stage by stage: python examples/read_metrics.py runs/quickstart"""

import json
import sys
from pathlib import Path

FIGURES = ("model", "loss", "reward/mean", "kl", "completion/length_mean", "evaluation/accuracy", "accuracy", "pass@1")
ROWS = 10
"""Lines printed of a stage, evenly spread over its steps, the last one among them."""


def read(stage: Path) -> list[dict[str, float | str | None]]:
    """Every line of a stage's metrics.jsonl."""
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict[str, float | str | None]]) -> list[str]:
    """The figures of some steps in aligned columns, only those that the stage measured."""
    names = [name for name in FIGURES if any(row.get(name) is not None for row in rows)]
    chosen = rows[:: -max(1, len(rows) // ROWS)][::-1]
    cells = [["step", *names], *([written(row.get(name)) for name in ("step", *names)] for row in chosen)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def written(value: float | str | None) -> str:
    """A figure with three decimals; a dash where it was not measured or was not finite."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for file in sorted(Path(sys.argv[1]).glob("*/metrics.jsonl")):
        print(file.parent.name, *table(read(file.parent)), sep="\n")
