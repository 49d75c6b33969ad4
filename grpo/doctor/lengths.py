"""How long completions are: cut at their limit, ever longer or ever shorter for nothing."""

from statistics import fmean

from grpo.curriculum_settings import begun
from grpo.doctor.chart import EARLY, ENOUGH, Chart, Points, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import SURE, least_share, rise
from grpo.doctor.stage import has_gained, lower_rate, problems_since
from grpo.grpo_stage import GrpoStage
from grpo.training_settings import TrainingSettings

CUT = 0.2
"""Share of cut completions that is too much. A cut one is punished for its length, however sound its reasoning is
(DAPO, arXiv 2503.14476, section 3.4); from a fifth on that is no rare noise.
An untrained policy may well begin there."""
LENGTH = "completion/length_mean"
TIMES = 2.0
"""How much longer or shorter the mean completion must be. R1-Zero's grow over thousands of steps, with accuracy."""


def truncation(chart: Chart) -> Finding | None:
    """Completions are cut at the limit, and not less and less.

    The completions of a group may all be cut together, so that the interval counts groups.
    """
    stage = chart.stage
    if not isinstance(stage, GrpoStage):
        return None
    since = _limit_since(stage, chart.step)
    points = [point for point in chart.recent("completion/truncated") if point[0] >= since]
    if len(points) < ENOUGH:
        return None
    shares = values(points)
    groups = len(shares) * stage.prompts_per_step
    half = len(shares) // 2
    heals = fmean(shares[half:]) < fmean(shares[:half]) / 2
    if heals or least_share(fmean(shares), groups) <= CUT:
        return None
    limit = stage.at(chart.step).rollout.max_new_tokens
    evidence = f"{fmean(shares):.0%} of the completions of {groups} groups were cut at {limit} tokens"
    return finding(chart, "truncation", points[0][0], evidence, (_limit_key(stage, chart.step), 2 * limit))


def length_explosion(chart: Chart) -> Finding | None:
    """Completions have become twice as long, and no more of them are right.

    GRPO's mean over a sequence's tokens makes wrong answers cheaper the longer they are (Dr. GRPO, arXiv 2503.20783,
    section 3.1).
    """
    stage, (before, after) = chart.stage, _lengths(chart)
    if not isinstance(stage, GrpoStage) or len(after) < ENOUGH or _gained(chart):
        return None
    now = values(after)
    if fmean(now) < TIMES * fmean(before) or rise(before, now) <= SURE:
        return None
    change = _less_pay(chart, stage) or (("loss.kind", "dr_grpo") if stage.loss.kind == "grpo" else lower_rate(stage))
    return finding(chart, "length explosion", after[0][0], _moved(before, now), change)


def length_collapse(chart: Chart) -> Finding | None:
    """Completions have become half as long, and no more of them are right: reasoning is dropped, not shortened."""
    stage, (before, after) = chart.stage, _lengths(chart)
    if not isinstance(stage, GrpoStage) or len(after) < ENOUGH or _gained(chart):
        return None
    now = values(after)
    if fmean(now) > fmean(before) / TIMES or -rise(before, now) <= SURE:
        return None
    return finding(
        chart, "length collapse", after[0][0], _moved(before, now), _less_pay(chart, stage) or lower_rate(stage)
    )


def _lengths(chart: Chart) -> tuple[list[float], Points]:
    """Lengths in the first steps as things are now, and the newest ones after them.

    Another limit moves them, and so do other problems.
    """
    since = _as_now_since(chart)
    baseline = chart.first(LENGTH, since)[:EARLY]
    newest = [point for point in chart.recent(LENGTH) if baseline and point[0] > baseline[-1][0]]
    return values(baseline), newest


def _as_now_since(chart: Chart) -> int:
    """The step from which on limit and problems are what they are now."""
    return max(_limit_since(chart.stage, chart.step), problems_since(chart.stage, chart.step))


def _gained(chart: Chart) -> bool:
    return has_gained(chart, since=_as_now_since(chart))


def _moved(before: list[float], now: list[float]) -> str:
    return (
        f"completions went from {fmean(before):.0f} tokens to {fmean(now):.0f} ({rise(before, now):+.1f} standard "
        "errors), and no more of them are right"
    )


def _less_pay(chart: Chart, stage: GrpoStage) -> tuple[str, object] | None:
    """Half the weight of the first reward that counts and has surely risen meanwhile: it may be what moves lengths."""
    since = _as_now_since(chart)
    paid = [j for j, reward in enumerate(stage.rewards) if _pays(chart, reward.shown_as, reward.weight, since)]
    return (f"rewards.{paid[0]}.weight", stage.rewards[paid[0]].weight / 2) if paid else None


def _pays(chart: Chart, reward: str, weight: float, since: int) -> bool:
    before = values(chart.first(f"reward/{reward}", since))[:EARLY]
    risen = rise(before, values(chart.recent(f"reward/{reward}")))
    return bool(weight) and (risen if weight > 0 else -risen) > SURE


def _limit_key(stage: GrpoStage, step: int) -> str:
    entry = begun(stage.length_schedule, step)
    where = "rollout" if entry is None else f"length_schedule.{stage.length_schedule.index(entry)}"
    return f"{where}.max_new_tokens"


def _limit_since(stage: TrainingSettings, step: int) -> int:
    """The step from which on completions are cut where they are now."""
    entry = begun(stage.length_schedule, step) if isinstance(stage, GrpoStage) else None
    return 0 if entry is None else entry.step
