"""Watches for reward hacking: what is liked goes up while what is right goes down (DeepSeek-R1, figure 6).

Everything is kept in figures, so that a resumed run goes on watching where it stopped.
"""

import math
from collections.abc import Iterable, Mapping

from grpo.grpo_stage import GrpoStage
from grpo.rewards.registry import PREFERENCES

RATE = 0.2
"""How fast the running mean of a preference reward follows it: by half in three steps."""

TOTAL = "mean"
"""What the total of all rewards is called among them, as in its figure `reward/mean`. No reward may have this name."""

THEN, BAND = "watch/accuracy_then", "watch/accuracy_then_band"
"""Held-out accuracy at its best so far, and half of its 95 % interval."""

Figures = Mapping[str, float]


def watched(before: Figures, figures: Figures, weights: Mapping[str, float]) -> dict[str, float]:
    """What the watch adds to the figures of a step, from the newest figures of the steps before.

    `watch/<name>` is the running mean of a preference reward on the completions trained on, turned round where the
    reward's weight is negative, so that more of it is always what the policy is trained for. With an evaluation comes
    `watch/parted`: 1 when that mean is above what it was when held-out accuracy was at its best, while accuracy is
    below its best by more than both intervals together (their root sum of squares; the problems are the same, so the
    difference is surer than that, which makes up for taking the best of several).
    """
    names = list(weights)
    added = _means(before, figures, weights)
    known = {**before, **_reference(before), **added}
    if "evaluation/accuracy" not in figures:
        return added
    accuracy, band = _accuracy(figures)
    if accuracy >= known.get(THEN, -math.inf):
        at_best = {f"{mean}_then": known[mean] for mean in _measured(known, names)}
        return added | at_best | {THEN: accuracy, BAND: band, "watch/parted": 0.0}
    fell, noise = known[THEN] - accuracy, math.hypot(band, known[BAND])
    rose = any(known[mean] > known[f"{mean}_then"] for mean in _measured(known, names))
    kept = {name: known[name] for name in (THEN, BAND)}
    return added | kept | {"watch/fell": fell, "watch/noise": noise, "watch/parted": float(rose and fell > noise)}


def parting(figures: Figures, names: Iterable[str]) -> str:
    """How far preference and accuracy have parted, in a sentence."""
    means = [mean for mean in _measured(figures, names) if figures[mean] > figures[f"{mean}_then"]]
    rewards = ", ".join(
        f"{mean.removeprefix('watch/')} rose from {figures[f'{mean}_then']:.3f} to {figures[mean]:.3f}"
        for mean in means
    )
    return (
        f"{rewards}, while held-out accuracy fell from {figures[THEN]:.3f} to {figures['evaluation/accuracy']:.3f}, by "
        f"more than its noise of {figures['watch/noise']:.3f}"
    )


def watched_rewards(stage: GrpoStage) -> dict[str, float]:
    """The rewards that a policy may learn to game, with their weights: those of preference that count, and the total.

    The total is no concern of a recipe that names what is watched.
    """
    named = stage.evaluation.watch if stage.evaluation is not None else None
    liked = [r.shown_as for r in stage.rewards if r.name in PREFERENCES and r.weight] if named is None else named
    total = {TOTAL: 1.0} if named is None else {}
    return total | {reward.shown_as: reward.weight for reward in stage.rewards if reward.shown_as in liked}


def _means(before: Figures, figures: Figures, weights: Mapping[str, float]) -> dict[str, float]:
    """The running means that have moved, and the first values of those that have begun."""
    added = {}
    for name, weight in weights.items():
        given, mean = figures.get(f"reward/{name}"), f"watch/{name}"
        if given is not None:
            value = -given if weight < 0 else given
            added[mean] = before[mean] + RATE * (value - before[mean]) if mean in before else value
            added |= {} if mean in before else {f"{mean}_then": value}
    return added


def _reference(before: Figures) -> dict[str, float]:
    """The evaluation before the first step is what later ones are compared with."""
    if THEN in before or "evaluation/accuracy" not in before:
        return {}
    return dict(zip((THEN, BAND), _accuracy(before), strict=True))


def _accuracy(figures: Figures) -> tuple[float, float]:
    names = (f"evaluation/accuracy{end}" for end in ("", "_low", "_high"))
    accuracy, low, high = (figures[name] for name in names)
    return accuracy, (high - low) / 2


def _measured(known: Figures, names: Iterable[str]) -> list[str]:
    return [mean for name in names if (mean := f"watch/{name}") in known]
