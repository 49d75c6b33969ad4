"""Whether what is rewarded is what is wanted, and whether any of it reaches problems that were never trained on."""

from collections.abc import Sequence
from statistics import fmean

from grpo.doctor.chart import Chart, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import SURE, rise, trend
from grpo.doctor.stage import accuracy_reward, problems_key, problems_origin
from grpo.grpo_stage import GrpoStage, PeriodicEvaluation
from grpo.watch import THEN, parting, watched_rewards

EVALUATIONS = 6
"""Evaluations, that before the first step included, before which no trend can be told: of 6 in rising order, chance
gives 1 in 720."""
TREND = 1.28
"""Standard deviations of Mann and Kendall's test above which accuracy may well be moving: 20 % by chance."""
MOST = 50
"""Evaluations that a trend is looked for in: it compares all pairs of them."""
NEARLY_ALL = 0.95
"""Accuracy that leaves nothing to rise to."""
WIDE = 0.06
"""Half a 95 % interval that would hide the gain of a good run: 64 problems at accuracy 0.5 have 0.12, 256 have 0.06."""


def hacking(chart: Chart) -> Finding | None:
    """A reward rises while held-out accuracy falls: `grpo/watch.py` says when, at every evaluation."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage) or not chart.latest("watch/parted"):
        return None
    rose = [name for name in watched_rewards(stage) if _above(chart, name)]
    if not rose:
        return None
    known = {name: value for name in chart.names("") if (value := chart.latest(name)) is not None}
    first, change = chart.all("watch/parted")[-1][0], _less_gaming(chart, stage, rose)
    return finding(chart, "reward hacking", first, parting(known, rose), change)


def held_out_flat(chart: Chart) -> Finding | None:
    """Held-out accuracy has not moved in half of the stage: not by more than its interval, and with no trend."""
    stage, measured = chart.stage, chart.all("evaluation/accuracy")
    if not isinstance(stage, GrpoStage) or stage.evaluation is None or len(measured) < EVALUATIONS:
        return None
    high, low = (chart.all(f"evaluation/accuracy_{end}") for end in ("high", "low"))
    if not high or not low:
        return None
    (began, before), now = measured[0], fmean(values(measured[-3:]))
    half = (high[0][1] - low[0][1]) / 2
    thinned = values(measured[:: len(measured) // MOST + 1])
    moved = abs(now - before) > half or abs(trend(thinned)) > TREND or _had_moved(thinned, before, half)
    if moved or high[-1][1] >= NEARLY_ALL or chart.step < stage.steps / 2:
        return None
    evidence = (
        f"held-out accuracy was {before:.3f} at step {began} and {now:.3f} in the last 3 of "
        f"{len(measured)} evaluations: within its interval (+-{half:.3f}), without a trend"
    )
    return finding(chart, "held-out accuracy flat", began, evidence, _towards_progress(chart, stage, half))


def _had_moved(measured: Sequence[float], before: float, half: float) -> bool:
    """Whether any three evaluations in a row were two half intervals away, 3.4 standard deviations of such a mean."""
    means = (fmean(measured[end - 3 : end]) for end in range(3, len(measured) + 1))
    return any(abs(mean - before) > 2 * half for mean in means)


def _less_gaming(chart: Chart, stage: GrpoStage, rose: Sequence[str]) -> tuple[str, object]:
    """Less weight for what rose, or where that is the total, for what counts most beside what is right."""
    others = [r for r in stage.rewards if r.weight and r.shown_as != accuracy_reward(stage)]
    named = [r for r in others if r.shown_as in rose]
    for reward in named or sorted(others, key=lambda r: -abs(r.weight)):
        return f"rewards.{stage.rewards.index(reward)}.weight", reward.weight / 2
    return "steps", _best_step(chart)


def _above(chart: Chart, name: str) -> bool:
    mean, then = chart.latest(f"watch/{name}"), chart.latest(f"watch/{name}_then")
    return mean is not None and then is not None and mean > then


def _best_step(chart: Chart) -> int:
    """The step at which held-out accuracy was at its best; 1 where that was before training."""
    best = chart.latest(THEN)
    return max(1, next((step for step, value in chart.all("evaluation/accuracy") if value == best), chart.step))


def _towards_progress(chart: Chart, stage: GrpoStage, half: float) -> tuple[str, object]:
    """Faster learning where training does not move either; where it does, a sharper look, or more problems."""
    name = f"reward/{accuracy_reward(stage)}"
    if rise(values(chart.first(name)), values(chart.recent(name))) <= SURE:
        return "lr", 3 * stage.lr
    if half > WIDE:
        problems = (stage.evaluation or PeriodicEvaluation()).problems
        return "evaluation.problems", 4 * problems
    where = problems_origin(stage) if stage.problems.each[0].size is None else "size"
    return f"{problems_key(stage)}.{where}", "more problems"
