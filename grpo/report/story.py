"""What a report tells, as one JSON object that the page draws."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from grpo import __version__
from grpo.report.charts import phases, rows_of
from grpo.report.comparison import Group, group_runs, keyed, recipes, run_labels, side_by_side, stage_keys
from grpo.report.figures import charts, other_charts
from grpo.report.load import load_pictures
from grpo.report.run import Run, Stage, number
from grpo.report.series import short
from grpo.report.tables import evaluation_table, reasons

ENDS = 5
"""Steps at either end of a stage whose mean reward is told: one step alone is noise."""


class Finding(Protocol):
    """Something that is wrong with a run: its name, where, what shows it, and the recipe's line to change."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def stage(self) -> str: ...  # noqa: D102
    @property
    def first_step(self) -> int: ...  # noqa: D102
    @property
    def last_step(self) -> int: ...  # noqa: D102
    @property
    def evidence(self) -> str: ...  # noqa: D102
    @property
    def change(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Examined:
    """A run and what was found wrong with it; None where nobody has looked."""

    run: Run
    findings: Sequence[Finding] | None


def story(examined: Sequence[Examined]) -> dict[str, Any]:
    """Everything but the completions."""
    runs = [one.run for one in examined]
    groups = group_runs(runs)
    labels = run_labels(runs)
    return {
        "title": " / ".join(group.label for group in groups),
        "made": time.time(),
        "version": __version__,
        "runs": [_run(run, label) for run, label in zip(runs, labels, strict=True)],
        "groups": [{"label": group.label, "runs": list(group.numbers)} for group in groups],
        "findings": [_findings(one, label) for one, label in zip(examined, labels, strict=True)],
        "stages": [_stage(groups, key) for key in stage_keys(runs)],
        "recipe": side_by_side(recipes(runs)),
        "environment": side_by_side([run.environment for run in runs]),
    }


def _findings(examined: Examined, label: str) -> dict[str, Any]:
    """What was found, that which was still so at the end of its stage first; None where nobody has looked."""
    if examined.findings is None:
        return {"run": label, "findings": None}
    stages = {stage.name: (key, stage.steps) for key, stage in keyed(examined.run).items()}
    listed = [_finding(one, *stages.get(one.stage, (None, 0))) for one in examined.findings]
    return {"run": label, "findings": sorted(listed, key=lambda one: not one["lasts"])}


def _finding(found: Finding, key: str | None, steps: int) -> dict[str, Any]:
    named = ("name", "stage", "first_step", "last_step", "evidence", "change")
    return {name: getattr(found, name) for name in named} | {"key": key, "lasts": found.last_step >= steps}


def _run(run: Run, label: str) -> dict[str, Any]:
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
        "accuracy": _accuracy(run),
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


def _accuracy(run: Run) -> dict[str, Any] | None:
    """Held-out accuracy of the first and the last model: of the last evaluation, or else of reinforcement learning."""
    evaluations = [stage for stage in run.stages if stage.kind == "evaluate" and stage.rows]
    trained = [stage for stage in run.stages if stage.kind == "grpo"]
    for stages, name in ((evaluations, "accuracy"), (trained, "evaluation/accuracy")):
        for stage in reversed(stages):
            rows = [row for row in stage.rows if number(row.get(name)) is not None]
            if rows:
                ends = [
                    {end: short(number(row.get(name + end))) for end in ("", "_low", "_high")}
                    for row in (rows[0], rows[-1])
                ]
                shown = [{"value": e[""], "low": e["_low"], "high": e["_high"]} for e in ends]
                names = [str(row.get("model", f"step {row['step']}")) for row in (rows[0], rows[-1])]
                return {"stage": stage.name, "first": shown[0], "last": shown[1], "names": names, "rows": len(rows)}
    return None


def _rewards(run: Run) -> list[dict[str, Any]]:
    """The mean reward of the first and the last steps of every stage of reinforcement learning."""
    found = []
    for key, stage in keyed(run).items():
        values = [value for row in stage.rows if (value := number(row.get("reward/mean"))) is not None]
        if stage.kind == "grpo" and values:
            size = max(1, min(ENDS, len(values) // 2))
            found.append(
                {
                    "key": key,
                    "stage": stage.name,
                    "steps": size,
                    "first": short(fmean(values[:size])),
                    "last": short(fmean(values[-size:])),
                }
            )
    return found


def _stage(groups: Sequence[Group], key: str) -> dict[str, Any]:
    stages = {group.label: group.stages(key) for group in groups}
    every = [stage for found in stages.values() for stage in found]
    kind, rows = every[0].kind, rows_of(groups, key)
    names = list(dict.fromkeys(stage.name for stage in every))
    return {
        "key": key,
        "name": names[0] if len(names) == 1 else key,
        "kind": kind,
        "charts": charts(kind, rows) if kind != "evaluate" else [],
        "others": other_charts(kind, rows) if kind != "evaluate" else [],
        "phases": [{"run": label, "phases": found} for label, of in stages.items() if (found := phases(of))],
        "table": evaluation_table(groups, key) if kind == "evaluate" else None,
        "reasons": [{"run": label, "reasons": found} for label, of in stages.items() if (found := reasons(of))],
        "load": _loads(groups, key),
        "ends": _ends(stages),
    }


def _loads(groups: Sequence[Group], key: str) -> list[dict[str, Any]]:
    """The load of experts run by run: seeds have other experts, which no mean makes sense of."""
    labels = dict(zip([n for g in groups for n in g.numbers], [run for g in groups for run in g.runs], strict=True))
    names = run_labels(list(labels.values()))
    found = []
    for label, run in zip(names, labels.values(), strict=True):
        stage = keyed(run).get(key)
        picture = None if stage is None else load_pictures(stage.folder / "experts.jsonl")
        if picture is not None:
            found.append({"run": label, **picture})
    return found


def _ends(stages: Mapping[str, Sequence[Stage]]) -> list[str]:
    """What is said of groups whose seeds have come to different steps."""
    said = []
    for label, found in stages.items():
        ends = sorted({stage.steps for stage in found})
        if len(ends) > 1:
            said.append(f"{label}: seeds have come to steps {', '.join(map(str, ends))}; later ones are of fewer seeds")
    return said
