"""What there is to say of a run before anything is drawn."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from grpo.lines import Row
from grpo.report.comparison import keyed
from grpo.report.run import Run, Stage, number
from grpo.report.series import short

ACCURACY = {"evaluate": "accuracy", "grpo": "evaluation/accuracy"}
"""Kinds of stages that measure held-out accuracy, and its name there."""
ENDS = 5
"""Steps at either end of a stage whose mean reward is told: one step alone is noise."""


def overview(run: Run, label: str) -> dict[str, Any]:
    """A run in a few figures: how far it is, how long it took, from where to where it came."""
    stamps = [row["time"] for stage in run.stages for row in stage.rows if number(row.get("time")) is not None]
    return {
        "label": label,
        "name": str(run.recipe.get("name", label)),
        "seed": run.recipe.get("seed"),
        "commit": run.environment.get("git_commit"),
        "command": run.environment.get("command"),
        "ended": max(stamps, default=None),
        "seconds": short(sum(stage.seconds for stage in run.stages)),
        "complete": all(stage.complete for stage in run.stages),
        "notices": list(run.notices),
        "stages": [_progress(key, stage) for key, stage in keyed(run).items()],
        "accuracies": _accuracies(run),
        "rewards": _rewards(run),
    }


def _progress(key: str, stage: Stage) -> dict[str, Any]:
    planned = stage.settings.get("steps")
    return {
        "key": key,
        "name": stage.name,
        "kind": stage.kind,
        "state": "complete" if stage.complete else "unfinished" if stage.begun else "not begun",
        "steps": stage.steps,
        "planned": planned if isinstance(planned, int) and not stage.complete else None,
        "seconds": short(stage.seconds),
    }


def comparable(overviews: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same runs with the accuracies that evaluations measured, where any did, or else those inside training.

    So what stands side by side is of the same problems, and a run that has not come to its evaluation has a gap.
    """
    kinds = {accuracy["kind"] for one in overviews for accuracy in one["accuracies"]}
    shown = "evaluate" if "evaluate" in kinds else "grpo"
    return [{**one, "accuracies": [each for each in one["accuracies"] if each["kind"] == shown]} for one in overviews]


def _accuracies(run: Run) -> list[dict[str, Any]]:
    """Held-out accuracy of the first and the last model of every stage that measured it."""
    found = []
    for key, stage in keyed(run).items():
        name = ACCURACY.get(stage.kind, "")
        rows = [row for row in stage.rows if number(row.get(name)) is not None]
        if rows:
            found.append({"key": key, "stage": stage.name, "kind": stage.kind, **_first_and_last(rows, name)})
    return found


def _first_and_last(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """A figure of the first row and of the last one that was measured with the same template."""
    alike = [row for row in rows if row.get("template") == rows[0].get("template")]
    first, last = (_with_interval(row, name) for row in (alike[0], alike[-1]))
    names = [str(row.get("model", f"step {row['step']}")) for row in (alike[0], alike[-1])]
    return {"first": first, "last": last, "names": names, "rows": len(alike)}


def _with_interval(row: Row, name: str) -> dict[str, float | None]:
    ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {end: short(number(row.get(figure))) for end, figure in ends.items()}


def _rewards(run: Run) -> list[dict[str, Any]]:
    """The mean reward of the first and the last steps of every stage of reinforcement learning."""
    found = []
    for key, stage in keyed(run).items():
        values = [value for row in stage.rows if (value := number(row.get("reward/mean"))) is not None]
        if stage.kind == "grpo" and values:
            size = max(1, min(ENDS, len(values) // 2))
            ends = {"first": short(fmean(values[:size])), "last": short(fmean(values[-size:]))}
            found.append({"key": key, "stage": stage.name, "steps": size, **ends})
    return found
