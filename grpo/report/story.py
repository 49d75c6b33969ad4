"""What a report tells, as one JSON object that the page draws."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo import __version__
from grpo.doctor import Finding
from grpo.masked import masked
from grpo.report.charts import phases, rows_of
from grpo.report.comparison import Group, group_runs, keyed, recipes, run_labels, side_by_side, stage_keys
from grpo.report.figures import charts, other_charts
from grpo.report.load import load_pictures
from grpo.report.overview import comparable, overview
from grpo.report.run import Run, Stage
from grpo.report.tables import evaluation_table, reasons


@dataclass(frozen=True)
class Examined:
    """A run, what was found wrong with it (None: nobody has looked), and whether it has the steps that this takes."""

    run: Run
    findings: Sequence[Finding] | None
    is_long_enough: bool = True


def story(examined: Sequence[Examined]) -> dict[str, Any]:
    """Everything but the completions."""
    runs = [one.run for one in examined]
    groups = group_runs(runs)
    labels = run_labels(runs)
    return {
        "title": " / ".join(group.label for group in groups),
        "made": time.time(),
        "version": __version__,
        "runs": comparable([overview(run, label) for run, label in zip(runs, labels, strict=True)]),
        "groups": [{"label": group.label, "runs": list(group.numbers)} for group in groups],
        "findings": [_findings(one, label) for one, label in zip(examined, labels, strict=True)],
        "stages": [_stage(groups, key, dict(zip(labels, runs, strict=True))) for key in stage_keys(runs)],
        "recipe": side_by_side(masked(recipes(runs))),
        "environment": side_by_side(masked([run.environment for run in runs])),
    }


def _findings(examined: Examined, label: str) -> dict[str, Any]:
    """What was found, that which was still so at the end of its stage first; None where nobody has looked."""
    if examined.findings is None:
        return {"run": label, "findings": None}
    stages = {stage.name: (key, stage.steps) for key, stage in keyed(examined.run).items()}
    listed = [_finding(one, *stages.get(one.stage, (None, 0))) for one in examined.findings]
    ordered = sorted(listed, key=lambda one: not one["lasts"])
    return {"run": label, "findings": ordered, "enough": examined.is_long_enough}


def _finding(found: Finding, key: str | None, steps: int) -> dict[str, Any]:
    named = ("name", "stage", "first_step", "last_step", "evidence", "change")
    return {name: getattr(found, name) for name in named} | {"key": key, "lasts": found.last_step >= steps}


def _stage(groups: Sequence[Group], key: str, runs: Mapping[str, Run]) -> dict[str, Any]:
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
        "load": _loads(runs, key),
        "ends": _ends(stages),
    }


def _loads(runs: Mapping[str, Run], key: str) -> list[dict[str, Any]]:
    """The load of experts run by run: seeds have other experts, which no mean makes sense of."""
    stages = {label: keyed(run).get(key) for label, run in runs.items()}
    files = {label: stage.folder / "experts.jsonl" for label, stage in stages.items() if stage is not None}
    pictures = {label: load_pictures(file) for label, file in files.items()}
    return [{"run": label, **picture} for label, picture in pictures.items() if picture is not None]


def _ends(stages: Mapping[str, Sequence[Stage]]) -> list[str]:
    """What is said of groups whose seeds have come to different steps."""
    said = []
    for label, found in stages.items():
        ends = sorted({stage.steps for stage in found})
        if len(ends) > 1:
            said.append(f"{label}: seeds have come to steps {', '.join(map(str, ends))}; later ones are of fewer seeds")
    return said
