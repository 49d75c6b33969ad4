"""Whether rewards tell completions apart: groups without signal, a format that is never found, rewards that fail."""

import inspect
from statistics import fmean
from typing import Any

from grpo.doctor.chart import ENOUGH, WINDOW, Chart, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import least_share
from grpo.doctor.stage import accuracy_reward, completions_a_step, completions_in, problems_key, problems_origin
from grpo.grpo_stage import GrpoStage
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import BUILT_IN

SILENT = 0.9
"""Share of groups without signal above which a step learns from less than a tenth of what it samples.

DAPO (arXiv 2503.14476, section 3.2) replaces such groups since the batch that counts shrinks and its gradient's
variance grows. At 0.9 that variance is ten times a full batch's. Healthy runs come to 0.6 to 0.85 near their end.
"""
SOLVED = 0.9
"""Accuracy from which on groups are silent since they are right."""
FAILED = 0.01
"""Share of completions that may fail to be scored: they are left out of training, and hardly ever by chance alone."""
UNSEEN = 3.0
"""A rate that was never seen in n completions is below 3/n with 95 % confidence (the rule of three)."""


def no_signal(chart: Chart) -> Finding | None:
    """Nearly all groups have equal rewards, and not since their problems are solved."""
    silent = _silent(chart)
    if silent is None or _is_solved(chart):
        return None
    share, groups, first = silent
    return finding(
        chart,
        "no signal",
        first,
        f"{share:.0%} of {groups} groups had equal rewards (at least {least_share(share, groups):.0%}), so that "
        f"nothing could be learned from them{_accuracy(chart)}",
        _more_signal(chart.stage, share),
    )


def solved(chart: Chart) -> Finding | None:
    """Nearly all groups have equal rewards since their problems are solved: further steps teach nothing."""
    silent = _silent(chart)
    if silent is None or not _is_solved(chart):
        return None
    share, groups, _ = silent
    first = _solved_since(chart)
    evidence = f"{share:.0%} of {groups} groups had equal rewards{_accuracy(chart)}: further steps teach nothing"
    return finding(chart, "solved", first, evidence, ("steps", first))


def format_never_found(chart: Chart) -> Finding | None:
    """The format reward was 0 on so many completions that a step would not hold one that has the format.

    Reinforcement learning strengthens what is sampled: a form that comes up less often than once a step has nothing to
    be strengthened from.
    """
    stage = chart.stage
    if not isinstance(stage, GrpoStage):
        return None
    formats = [(j, r) for j, r in enumerate(stage.rewards) if r.name == "format" and r.weight > 0]
    for j, reward in formats:
        name = f"reward/{reward.shown_as}"
        points, others = chart.all(name), chart.total(f"{name}/not_applicable")
        seen = round(completions_in(stage, chart.total("groups/sampled"), len(points)) - others)
        never = len(points) >= ENOUGH and chart.total(name) <= 0
        if never and seen > UNSEEN * completions_a_step(stage):
            graded = (f"rewards.{j}.options.graded", True)
            example = (f"{problems_key(stage)}.template.examples", "a file of worked examples")
            partly = bool(reward.options.get("graded"))
            had = "any of the format" if partly else "the format"
            evidence = f"none of {seen} completions had {had} (its rate is below {UNSEEN / seen:.2%})"
            change = example if partly else graded
            return finding(chart, "format never found", points[0][0], evidence, change)
    return None


def verifier_errors(chart: Chart) -> Finding | None:
    """A reward fails on more completions than chance explains."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage):
        return None
    for j, reward in enumerate(stage.rewards):
        name = f"reward/{reward.shown_as}"
        counts = {status: chart.recent(f"{name}/{status}") for status in ("error", "timeout", "not_applicable")}
        errors, timeouts, skipped = (sum(values(points)) for points in counts.values())
        groups = sum(values(chart.recent("groups/sampled")))
        judged = round(completions_in(stage, groups, len(counts["error"])) - skipped)
        failed = errors + timeouts
        if judged > 0 and least_share(failed / judged, judged) > FAILED:
            lost = ", which were left out of training" if reward.weight else ""
            evidence = (
                f"{reward.shown_as} failed on {failed:.0f} of {judged} completions ({errors:.0f} errors, "
                f"{timeouts:.0f} timeouts){lost}; samples.jsonl has them"
            )
            first = min(step for status in ("error", "timeout") for step, n in counts[status] if n)
            return finding(chart, "verifier errors", first, evidence, _mended(stage, j, timeouts > errors))
    return None


def _silent(chart: Chart) -> tuple[float, int, int] | None:
    """The share of silent groups, of how many, since which step; None where they are few enough."""
    stage, points = chart.stage, chart.recent("groups/zero_std")
    if not isinstance(stage, GrpoStage) or len(points) < ENOUGH:
        return None
    shares = values(points)
    if stage.dynamic_sampling is not None:  # what it kept has signal; where it found nothing, it keeps all
        kept = values(chart.recent("groups/kept"))
        shares = [s if s == 1 else 1 - k / stage.prompts_per_step for s, k in zip(shares, kept, strict=False)]
    groups = len(shares) * stage.prompts_per_step
    share = fmean(shares)
    return (share, groups, points[0][0]) if least_share(share, groups) > SILENT else None


def _is_solved(chart: Chart, ago: int = 0) -> bool:
    """Whether the accuracy of a window is that of solved problems."""
    name = accuracy_reward(chart.stage)
    points = chart.recent(f"reward/{name}", ago) if name else []
    return bool(points) and fmean(values(points)) >= SOLVED


def _solved_since(chart: Chart) -> int:
    """The first step of the windows, back from the newest one, that were silent and solved."""
    ago = 0
    while _was_silent(chart, ago + WINDOW) and _is_solved(chart, ago + WINDOW):
        ago += WINDOW
    return chart.recent("groups/zero_std", ago)[0][0]


def _was_silent(chart: Chart, ago: int) -> bool:
    shares = values(chart.recent("groups/zero_std", ago))
    return len(shares) >= ENOUGH and fmean(shares) > SILENT


def _accuracy(chart: Chart) -> str:
    name = accuracy_reward(chart.stage)
    points = chart.recent(f"reward/{name or 'mean'}")
    return f"; {name or 'the mean reward'} was {fmean(values(points)):.2f}" if points else ""


def _more_signal(stage: Any, share: float) -> tuple[str, Any]:
    """Where a few groups have signal, more of those; where none has, rewards that tell completions apart."""
    if share < 1 and stage.dynamic_sampling is None:
        return "dynamic_sampling", {"max_rounds": 10}
    for j, reward in enumerate(stage.rewards):
        if reward.name == "format" and not reward.options.get("graded"):
            return f"rewards.{j}.options.graded", True
    if share < 1:
        return "completions_per_prompt", 2 * stage.completions_per_prompt
    # Without a reward that says what is right, these may be too easy as well as too hard.
    easier = "easier problems" if accuracy_reward(stage) else "problems that are right at times"
    return f"{problems_key(stage)}.{problems_origin(stage)}", f"{easier}, or a reward with partial credit"


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
