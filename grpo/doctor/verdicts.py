"""Whether rewards tell completions apart: groups without signal, a format that is never found."""

import math
from statistics import fmean
from typing import Any

from grpo.doctor.chart import ENOUGH, WINDOW, Chart, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import least_share
from grpo.doctor.stage import accuracy_reward, completions_a_step, completions_in, problems_key, problems_origin
from grpo.grpo_stage import GrpoStage

SILENT = 0.9
"""Share of groups without signal above which a step learns from less than a tenth of what it samples.

DAPO (arXiv 2503.14476, section 3.2) replaces such groups since the batch that counts shrinks and its gradient's
variance grows. At 0.9 that variance is ten times a full batch's. Healthy runs come to 0.6 to 0.85 near their end.
"""
GROUPS = 40
"""Groups that are looked at, however few a step has: of 34 that are all silent, nine tenths are not yet sure."""
SOLVED = 0.9
"""Accuracy from which on groups are silent since they are right."""
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
        f"nothing could be learned from them{_told_accuracy(chart)}",
        _more_signal(chart.stage, share),
    )


def solved(chart: Chart) -> Finding | None:
    """Nearly all groups have equal rewards since their problems are solved: further steps teach nothing."""
    stage, silent = chart.stage, _silent(chart)
    if not isinstance(stage, GrpoStage) or silent is None or not _is_solved(chart):
        return None
    share, groups, _ = silent
    first = _solved_since(chart, stage)
    evidence = f"{share:.0%} of {groups} groups had equal rewards{_told_accuracy(chart)}: further steps teach nothing"
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


def _window(stage: GrpoStage) -> int:
    """Steps that hold enough groups for a share of them."""
    return max(WINDOW, math.ceil(GROUPS / stage.prompts_per_step))


def _silent(chart: Chart) -> tuple[float, int, int] | None:
    """The share of silent groups, of how many, since which step; None where they are few enough."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage):
        return None
    points = chart.recent("groups/zero_std", steps=_window(stage))
    if len(points) < ENOUGH:
        return None
    shares = values(points)
    if stage.dynamic_sampling is not None:  # what it kept has signal; where it found nothing, it keeps all
        kept = values(chart.recent("groups/kept", steps=_window(stage)))
        shares = [s if s == 1 else 1 - k / stage.prompts_per_step for s, k in zip(shares, kept, strict=False)]
    groups = len(shares) * stage.prompts_per_step
    share = fmean(shares)
    return (share, groups, points[0][0]) if least_share(share, groups) > SILENT else None


def _is_solved(chart: Chart, ago: int = 0) -> bool:
    """Whether the accuracy of a window is that of solved problems."""
    accuracy = _accuracy(chart, ago) if accuracy_reward(chart.stage) else None
    return accuracy is not None and accuracy >= SOLVED


def _solved_since(chart: Chart, stage: GrpoStage) -> int:
    """The first step of the windows, back from the newest one, that were silent and solved."""
    ago, steps = 0, _window(stage)
    while _was_silent(chart, ago + steps, steps) and _is_solved(chart, ago + steps):
        ago += steps
    return chart.recent("groups/zero_std", ago, steps)[0][0]


def _was_silent(chart: Chart, ago: int, steps: int) -> bool:
    shares = values(chart.recent("groups/zero_std", ago, steps))
    return len(shares) >= ENOUGH and fmean(shares) > SILENT


def _accuracy(chart: Chart, ago: int = 0) -> float | None:
    """The mean of what says what is right, or of the total reward, over the groups whose silence is looked at."""
    steps = _window(chart.stage) if isinstance(chart.stage, GrpoStage) else WINDOW
    points = chart.recent(f"reward/{accuracy_reward(chart.stage) or 'mean'}", ago, steps)
    return fmean(values(points)) if points else None


def _told_accuracy(chart: Chart) -> str:
    accuracy = _accuracy(chart)
    name = accuracy_reward(chart.stage) or "the mean reward"
    return "" if accuracy is None else f"; {name} was {accuracy:.2f}"


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
