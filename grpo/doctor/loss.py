"""Whether learning goes on at all: steps that are not finite, a loss that climbs, gradients that leap."""

from statistics import fmean, median

from grpo.doctor.chart import ENOUGH, WINDOW, Chart, Points, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import SURE, rise
from grpo.doctor.stage import lower_rate, problems_since
from grpo.grpo_stage import GrpoStage

LOST = 0.2
"""Share of what the loss had fallen by that must be lost again: losses near 0 double by chance and mean nothing."""
LEAP = 10.0
"""How many times the median of a window a gradient norm must be. The loss's own noise stays within 3."""
LEAPS = 2
"""Leaps within a window that are no single odd batch."""


def not_finite(chart: Chart) -> Finding | None:
    """The loss or a gradient was not finite. No such step is normal: the update is lost, and so is what it cost."""
    skipped = [step for step, value in chart.recent("skipped") if value]
    if not skipped:
        return None
    count = sum(values(chart.recent("skipped")))
    evidence = f"the loss or a gradient was not finite in {count:.0f} of the updates of the last {WINDOW} steps"
    return finding(chart, "not finite", skipped[0], evidence, lower_rate(chart.stage))


def loss_diverging(chart: Chart) -> Finding | None:
    """A supervised loss climbs: it has lost a fifth of what it had gained, or stands above its start.

    A loss of policy gradients says nothing by its value, so that stages of reinforcement learning have no such finding.
    Each new source of problems has a start of its own.
    """
    points, first = chart.all("loss"), chart.place("loss", problems_since(chart.stage, chart.step))
    if isinstance(chart.stage, GrpoStage) or len(points) - first < 2 * ENOUGH:
        return None
    start, after = points[first][1], values(points[-ENOUGH:])
    best = min(_earlier(points, first), key=fmean)
    gained = max(start - fmean(best), 0.0)
    lost_again = fmean(after) - fmean(best) > max(LOST * gained, LOST * fmean(best)) and rise(best, after) > SURE
    above = min(after) > (1 + LOST) * start
    if not lost_again and not above:
        return None
    evidence = f"the loss is {fmean(after):.3g}; it began at {start:.3g} and had come to {min(start, fmean(best)):.3g}"
    return finding(chart, "loss diverging", points[-ENOUGH][0], evidence, lower_rate(chart.stage))


def gradient_spikes(chart: Chart) -> Finding | None:
    """Single gradients are many times the usual one and above the clip, which lets them through at its own size.

    Bad rows in the data do this, and each such update undoes many usual ones.
    """
    norms, before = chart.recent("grad_norm"), values(chart.recent("grad_norm", WINDOW))
    if len(before) < ENOUGH or not norms:
        return None
    usual, most = median(before), chart.stage.max_grad_norm
    leaps = [(step, norm) for step, norm in norms if norm > max(LEAP * usual, most)]
    if not LEAPS <= len(leaps) <= len(norms) // 2:  # more are no leaps but another level
        return None
    evidence = (
        f"{len(leaps)} of {len(norms)} gradient norms were above {LEAP * usual:.2g}, up to {max(values(leaps)):.2g}, "
        f"where {usual:.2g} is usual"
    )
    tighter = float(f"{min(2 * usual, most / 2):.1g}")
    return finding(chart, "gradient spikes", leaps[0][0], evidence, ("max_grad_norm", tighter))


def _earlier(points: Points, first: int) -> list[list[float]]:
    """Windows that ended 1, 2, 4, 8, ... windows ago, and the first: a few of them however long the stage is."""
    ends, ago = [first + ENOUGH], ENOUGH
    while len(points) - ago >= first + ENOUGH:
        ends.append(len(points) - ago)
        ago *= 2
    return [values(points[end - ENOUGH : end]) for end in ends]
