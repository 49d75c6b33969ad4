"""What evaluations and rejection sampling came to, as tables of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from grpo.lines import Row
from grpo.report.comparison import Group
from grpo.report.run import Stage, number
from grpo.report.series import short

Cell = dict[str, Any]
"""`value`, and `low` and `high` where there is an interval."""


def evaluation_table(groups: Sequence[Group], key: str) -> dict[str, Any]:
    """A line for every group of runs, model, template and source; columns of figures with their intervals.

    Over several seeds, a figure is the mean, and its interval goes from the lowest seed to the highest.
    """
    lines = [line for group in groups for line in _lines(group.label, group.stages(key))]
    accuracy = next((s.settings.get("accuracy") for g in groups for s in g.stages(key)), "accuracy")
    columns = dict.fromkeys(name for line in lines for name in line["cells"] if name != f"reward/{accuracy}")
    said = {name: {line[name] for line in lines} for name in ("run", "model", "template", "source")}
    return {
        "labels": [name for name, values in said.items() if len(values) > 1 or name == "model"],
        "columns": sorted(columns, key=_rank),
        "lines": lines,
        "seeds": max((len(group.runs) for group in groups), default=1),
    }


def _lines(label: str, stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    by_model: dict[tuple[str, str], list[Row]] = {}
    for row in (row for stage in stages for row in stage.rows if "model" in row):
        by_model.setdefault((str(row["model"]), str(row.get("template", "training"))), []).append(row)
    for (model, template), rows in by_model.items():
        named = {"run": label, "model": model, "template": template}
        yield {**named, "source": "all", "cells": cells(rows, "")}
        sources = dict.fromkeys(name.split("/")[1] for row in rows for name in row if name.startswith("source/"))
        for source in sources if len(sources) > 1 else ():
            yield {**named, "source": source, "cells": cells(rows, f"source/{source}/")}


def cells(rows: Sequence[Row], prefix: str) -> dict[str, Cell]:
    """The figures of a model, by name without a prefix; of several seeds their means and ranges."""
    names = [name.removeprefix(prefix) for row in rows for name in row if name.startswith(prefix)]
    shown = [name for name in dict.fromkeys(names) if _is_column(name)]
    return {name: cell for name in shown if (cell := _cell(rows, prefix + name)) is not None}


def _cell(rows: Sequence[Row], name: str) -> Cell | None:
    values = [value for row in rows if (value := number(row.get(name))) is not None]
    if not values:
        return None
    if len(values) > 1:
        return {"value": short(fmean(values)), "low": short(min(values)), "high": short(max(values))}
    low, high = (short(number(rows[0].get(f"{name}_{end}"))) for end in ("low", "high"))
    return {"value": short(values[0])} | ({} if low is None or high is None else {"low": low, "high": high})


def _is_column(name: str) -> bool:
    if name.endswith(("_low", "_high")):
        return False
    return name in ("accuracy", "problems", "unscorable", "completion/length_mean", "completion/truncated") or (
        name.startswith(("pass@", "cons@")) or (name.startswith("reward/") and name.count("/") == 1)
    )


def _rank(name: str) -> tuple[int, str]:
    """Accuracy first, then what was sampled, other rewards, and what is about the completions."""
    order = ("accuracy", "pass@", "cons@", "reward/", "completion/", "unscorable", "problems")
    rank = next((place for place, start in enumerate(order) if name.startswith(start)), len(order))
    size = name.partition("@")[2]
    return rank, size.zfill(8) if size else name


# --- rejection sampling -----------------------------------------------------------------------------------------------


def reasons(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """How many candidates were kept, and why the others were not: the last chunk's counts hold those before."""
    totals: dict[str, float] = {}
    for stage in stages:
        last: Mapping[str, Any] = stage.rows[-1] if stage.rows else {}
        for name, value in last.items():
            if name.startswith("reasons/") and (count := number(value)) is not None:
                totals[name.removeprefix("reasons/")] = totals.get(name.removeprefix("reasons/"), 0.0) + count
    return [{"reason": name, "count": int(count)} for name, count in totals.items()]
