"""Curves: a figure over the steps of one run, or its mean over seeds with a band."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from grpo.lines import Row
from grpo.report.run import number

MOST_POINTS = 1000
"""Points of a curve; longer ones are drawn as means of neighbours, which no screen could tell apart."""

Points = Mapping[int, float]
"""Values by step."""


@dataclass(frozen=True)
class Series:
    """A line: values at steps, and between what they lie where there is a band."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def points(rows: Sequence[Row], name: str) -> dict[int, float]:
    """A figure by step, where it was measured."""
    found = {row["step"]: number(row.get(name)) for row in rows}
    return {step: value for step, value in found.items() if value is not None}


def series(label: str, runs: Sequence[Sequence[Row]], name: str) -> Series | None:
    """A figure of several runs' rows as one line, or None where no run has it.

    Of one run, the band is the figure's own interval, `<name>_low` to `<name>_high`; of several, the lowest to the
    highest run. The line is the mean of those that have the step.
    """
    measured = [found for rows in runs if (found := points(rows, name))]
    if not measured:
        return None
    if len(measured) == 1:
        rows = next(rows for rows in runs if points(rows, name))
        return thinned(_of_one(label, measured[0], points(rows, f"{name}_low"), points(rows, f"{name}_high")))
    return thinned(mean_of(label, measured))


def stacked(names: Mapping[str, str], runs: Sequence[Sequence[Row]]) -> list[Series]:
    """Figures, by label, as lines that can be put one upon the other: at the same steps, 0 where one was not measured.

    A value is the mean over the runs that have the step.
    """
    measured = {label: [points(rows, name) for rows in runs] for label, name in names.items()}
    measured = {label: each for label, each in measured.items() if any(each)}
    steps_of = [{step for each in measured.values() for step in each[run]} for run in range(len(runs))]
    steps = sorted(set().union(*steps_of))
    lines = []
    for label, each in measured.items():
        of_run = list(zip(each, steps_of, strict=True))
        values = [fmean(one.get(step, 0.0) for one, own in of_run if step in own) for step in steps]
        line = thinned(Series(label, steps, values))
        lines.append(Series(label, line.steps, line.values))
    return lines


def mean_of(label: str, measured: Sequence[Points]) -> Series:
    """The mean over runs at every step that one of them has, from the lowest to the highest.

    >>> mean_of("kl", [{1: 0.0, 2: 1.0}, {1: 1.0}])
    Series(label='kl', steps=[1, 2], values=[0.5, 1.0], low=[0.0, 1.0], high=[1.0, 1.0])
    """
    steps = sorted({step for one in measured for step in one})
    values = [[one[step] for one in measured if step in one] for step in steps]
    return Series(label, steps, [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values])


def _of_one(label: str, values: Points, low: Points, high: Points) -> Series:
    steps = sorted(values)
    if any(step not in low or step not in high for step in steps):
        return Series(label, steps, [values[step] for step in steps])
    return Series(label, steps, *([each[step] for step in steps] for each in (values, low, high)))


def thinned(line: Series, most: int = MOST_POINTS) -> Series:
    """A line of at most `most` points: of neighbours the last step, the mean, and the least and the most of them."""
    size = math.ceil(len(line.steps) / most)
    if size <= 1:
        return line
    parts = [slice(start, start + size) for start in range(0, len(line.steps), size)]
    return Series(
        line.label,
        [line.steps[part][-1] for part in parts],
        [fmean(line.values[part]) for part in parts],
        [min((line.low or line.values)[part]) for part in parts],
        [max((line.high or line.values)[part]) for part in parts],
    )


def short(value: float | None) -> float | None:
    """A number with the five digits that a picture can show; None where it is not finite."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
