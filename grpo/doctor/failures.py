"""Whether rewards fail on more completions than chance explains."""

import inspect
from dataclasses import dataclass
from typing import Any

from grpo.doctor.chart import Chart, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import least_share
from grpo.doctor.stage import completions_in
from grpo.grpo_stage import GrpoStage
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import BUILT_IN

FAILED = 0.01
"""Share of completions that may fail to be scored: they are left out of training, and hardly ever by chance alone."""


def verifier_errors(chart: Chart) -> Finding | None:
    """A reward fails on more completions than chance explains."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage):
        return None
    every = [_failures(chart, stage, j) for j in range(len(stage.rewards))]
    failing = sorted((one for one in every if one.least > FAILED), key=lambda one: -one.least)
    if not failing:
        return None
    worst, *others = failing
    reward = stage.rewards[worst.reward]
    lost = ", which were left out of training" if reward.weight else ""
    also = "".join(f"; {stage.rewards[one.reward].shown_as} on {one.failed:.0f} of {one.judged}" for one in others)
    evidence = (
        f"{reward.shown_as} failed on {worst.failed:.0f} of {worst.judged} completions ({worst.errors:.0f} errors, "
        f"{worst.timeouts:.0f} timeouts){lost}{also}; samples.jsonl has them"
    )
    change = _mended(stage, worst.reward, worst.timeouts > worst.errors)
    return finding(chart, "verifier errors", worst.first, evidence, change)


@dataclass(frozen=True)
class _Failures:
    """How often a reward, by its place, failed in the newest window, of how many completions, and since when."""

    reward: int
    errors: float
    timeouts: float
    judged: int
    first: int

    @property
    def failed(self) -> float:
        return self.errors + self.timeouts

    @property
    def least(self) -> float:
        """The share that fails surely."""
        return least_share(self.failed / self.judged, self.judged) if self.judged > 0 else 0.0


def _failures(chart: Chart, stage: GrpoStage, j: int) -> _Failures:
    name = f"reward/{stage.rewards[j].shown_as}"
    counts = {status: chart.recent(f"{name}/{status}") for status in ("error", "timeout", "not_applicable")}
    errors, timeouts, skipped = (sum(values(points)) for points in counts.values())
    groups = sum(values(chart.recent("groups/sampled")))
    judged = round(completions_in(stage, groups, len(counts["error"])) - skipped)
    failures = (step for status in ("error", "timeout") for step, n in counts[status] if n)
    return _Failures(j, errors, timeouts, judged, min(failures, default=chart.step))


def _mended(stage: GrpoStage, j: int, slow: bool) -> tuple[str, Any]:
    reward = stage.rewards[j]
    if not slow:
        return f"rewards.{j}.name", "corrected, so that it answers on every completion"
    if reward.isolate:
        return f"rewards.{j}.seconds", 2 * reward.seconds
    limit = _limit(reward)
    return (f"rewards.{j}.options.seconds", 2 * limit) if limit else (f"rewards.{j}.name", "one with a longer limit")


def _limit(reward: RewardSettings) -> float | None:
    """The seconds that a reward gives itself, where the recipe or the signature of a built-in one says them."""
    given = reward.options.get("seconds")
    if given is None and reward.name in BUILT_IN:
        taken = inspect.signature(BUILT_IN[reward.name]).parameters.get("seconds")
        given = taken.default if taken else None
    return float(given) if isinstance(given, int | float) else None
