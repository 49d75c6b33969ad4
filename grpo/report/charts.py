"""Charts as the page draws them: lines over steps that share an axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo.lines import Row
from grpo.metrics import PHASES
from grpo.report.comparison import Group
from grpo.report.run import Stage, number, phase_seconds
from grpo.report.series import Series, series, short, stacked
from grpo.watch import TOTAL

Unit = Literal["number", "share", "seconds"]

Runs = Sequence[Sequence[Row]]
"""The rows of a stage, run by run."""

Groups = Mapping[str, Runs]
"""The same by the label of the group of runs."""


@dataclass(frozen=True)
class Spec:
    """A chart to draw where one of its figures was measured. `figures` are names of metrics.jsonl with their labels.

    A `share` goes from 0 to 1. `log` is for figures of several orders of magnitude. What a stage is about is `main`.
    """

    title: str
    figures: Mapping[str, str]
    about: str = ""
    unit: Unit = "number"
    log: bool = False
    main: bool = False


def rows_of(groups: Sequence[Group], key: str) -> dict[str, Runs]:
    """The rows of a stage by group; of an evaluation inside, which may come before the first step, as well."""
    found = {group.label: [stage.rows for stage in group.stages(key)] for group in groups}
    return {label: runs for label, runs in found.items() if any(runs)}


def draw(spec: Spec, groups: Groups) -> list[dict[str, Any]]:
    """The charts of a spec: its figures in one for one group, one for every figure where groups are compared."""
    if len(groups) == 1:
        (runs,) = groups.values()
        lines = [series(label, runs, name) for name, label in spec.figures.items()]
        return _chart(spec, spec.title, lines)
    charts = []
    for name, label in spec.figures.items():
        lines = [series(group, runs, name) for group, runs in groups.items()]
        charts += _chart(spec, spec.title if len(spec.figures) == 1 else f"{spec.title}: {label}", lines)
    return charts


def _chart(spec: Spec, title: str, lines: Sequence[Series | None]) -> list[dict[str, Any]]:
    drawn = [line for line in lines if line is not None]
    if not drawn:
        return []
    return [
        {
            "title": title,
            "about": spec.about,
            "unit": spec.unit,
            "main": spec.main,
            "log": spec.log and any(value > 0 for line in drawn for value in line.values),
            **aligned(drawn),
        }
    ]


def aligned(lines: Sequence[Series]) -> dict[str, Any]:
    """Lines over the steps of them all: `steps`, and of each line its values there, None between its own."""
    steps = sorted({step for line in lines for step in line.steps})
    place = {step: number for number, step in enumerate(steps)}

    def spread(line: Series, values: Sequence[float]) -> list[float | None]:
        row: list[float | None] = [None] * len(steps)
        for step, value in zip(line.steps, values, strict=True):
            row[place[step]] = short(value)
        return row

    return {
        "steps": steps,
        "lines": [
            {"label": line.label, "values": spread(line, line.values)}
            | ({"low": spread(line, line.low), "high": spread(line, line.high)} if line.low else {})
            for line in lines
        ],
    }


def preference_charts(groups: Groups) -> list[dict[str, Any]]:
    """Of every group, the rewards of preference beside held-out accuracy, and the steps at which they part.

    The total, which every run watches, is no preference by itself.
    """
    charts = []
    for label, runs in groups.items():
        every = dict.fromkeys(name for rows in runs for row in rows for name in row)
        liked = [name for name in every if name.replace("reward/", "watch/", 1) in every and name.startswith("reward/")]
        accuracy = series("held-out accuracy", runs, "evaluation/accuracy")
        lines = [series(name.removeprefix("reward/"), runs, name) for name in liked]
        drawn = [line for line in lines if line is not None]
        if accuracy is not None and any(line.label != TOTAL for line in drawn):
            parted = sorted({row["step"] for rows in runs for row in rows if row.get("watch/parted")})
            spec = Spec(
                "Preference and held-out accuracy",
                {},
                "A preference that rises while accuracy falls is gamed.",
                "share",
            )
            title = spec.title if len(groups) == 1 else f"{spec.title}: {label}"
            (chart,) = _chart(spec, title, [accuracy, *drawn])
            charts.append(
                chart | {"right": [line.label for line in drawn], "marks": parted, "wide": True, "main": True}
            )
    return charts


def time_chart(groups: Groups) -> list[dict[str, Any]]:
    """Of every group, the seconds of a step by phase, one upon the other."""
    charts = []
    for label, runs in groups.items():
        lines = stacked({phase: f"time/{phase}" for phase in PHASES}, runs)
        if lines:
            spec = Spec("Where a step's time goes", {}, "Seconds of each phase, stacked.", "seconds", main=True)
            title = spec.title if len(groups) == 1 else f"{spec.title}: {label}"
            charts += [chart | {"stacked": True} for chart in _chart(spec, title, lines)]
    return charts


def phases(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """What a stage of several runs spent its seconds on, and what is left between its steps, as means over runs.

    A run does not write down when it was stopped, so that this time is in what is left.
    """
    if not stages:
        return []
    spent = {phase: sum(short_sum(stage, phase) for stage in stages) for phase in PHASES}
    between = sum(max(0.0, stage.seconds - phase_seconds(stage.rows)) for stage in stages)
    named = {**spent, "between steps, or stopped": between}
    return [{"phase": name, "seconds": short(s / len(stages))} for name, s in named.items() if s > 0]


def short_sum(stage: Stage, phase: str) -> float:
    """The seconds of a phase of all steps."""
    return sum(number(row.get(f"time/{phase}")) or 0.0 for row in stage.rows)
