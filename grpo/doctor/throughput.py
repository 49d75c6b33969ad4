"""Where the time of a step goes, and what would win most of it back.

By Amdahl's law a phase with a share s of the time can make a step at most 1 / (1 - s) times as fast. The median step
counts, so that a slow start of engines and workers does not, and of those alone that learned something: where nothing
is learned, learning takes no time.
"""

from statistics import median
from typing import Any

from grpo.doctor.chart import ENOUGH, Chart
from grpo.doctor.finding import Finding, finding
from grpo.doctor.stage import completions_a_step
from grpo.grpo_stage import GrpoStage
from grpo.metrics import PHASES
from grpo.reward_settings import RewardSettings

WASTED = 1 / 3
"""Share of judging, or of moving weights, which is waste: without it, the same time would hold half
as many steps more."""
MEASURED = 1 / 2
"""Share of evaluation, which is wanted, though hardly more of it than of all training."""
PUSHED = "check/gap_max"
"""What is measured where an engine has weights of its own. The transformers engine, which `auto` may come to, samples
with the policy itself."""
ALL = 0.9
"""Share of sampling, or of learning, which are the work itself: at a tenth, nothing else is worth a change."""


def rollout_bound(chart: Chart) -> Finding | None:
    """Nearly all of the time is sampling, and a setting of the engine would help."""
    found = _bound(chart, "rollout", ALL)
    stage = chart.stage
    if found is None or not isinstance(stage, GrpoStage):
        return None
    change: tuple[str, Any] | None = None
    if stage.rollout.max_concurrent < completions_a_step(stage):
        change = "rollout.max_concurrent", min(2 * stage.rollout.max_concurrent, completions_a_step(stage))
    elif stage.rollout.engine in ("auto", "transformers") and not (chart.all(PUSHED) or stage.rollout.speculative):
        change = "rollout.engine", "vllm"
    return finding(chart, "bound by rollout", *found, change) if change else None


def reward_bound(chart: Chart) -> Finding | None:
    """A third of the time is judging."""
    found = _bound(chart, "reward", WASTED)
    stage = chart.stage
    if found is None or not isinstance(stage, GrpoStage):
        return None
    slowest = max(stage.rewards, key=lambda reward: _seconds(chart, reward))
    first, evidence = found
    evidence += f"; {slowest.shown_as} takes {_seconds(chart, slowest):.2g} s"
    place = f"rewards.{stage.rewards.index(slowest)}"
    return finding(chart, "bound by rewards", first, evidence, _faster(slowest, place))


def learn_bound(chart: Chart) -> Finding | None:
    """Nearly all of the time is learning, and a setting of the learner would help."""
    found = _bound(chart, "learn", ALL)
    stage = chart.stage
    if found is None or not isinstance(stage, GrpoStage):
        return None
    change: tuple[str, Any] | None = None
    if stage.epochs_per_step > 1:
        change = "epochs_per_step", stage.epochs_per_step // 2
    elif stage.activations != "keep":
        change = "activations", "keep"
    elif _tokens_learned(chart) > stage.tokens_per_micro_batch:
        change = "tokens_per_micro_batch", 2 * stage.tokens_per_micro_batch
    return finding(chart, "bound by learning", *found, change) if change else None


def sync_bound(chart: Chart) -> Finding | None:
    """A third of the time weights are on their way to the engine: more samples for each push share its cost."""
    found = _bound(chart, "sync", WASTED)
    stage = chart.stage
    if found is None or not isinstance(stage, GrpoStage):
        return None
    return finding(chart, "bound by sync", *found, ("prompts_per_step", 2 * stage.prompts_per_step))


def evaluation_bound(chart: Chart) -> Finding | None:
    """Half of the time since the stage began was evaluation."""
    stage = chart.stage
    if not isinstance(stage, GrpoStage) or stage.evaluation is None or len(chart.all("time/learn")) < ENOUGH:
        return None
    spent = sum(chart.total(f"time/{phase}") for phase in PHASES)
    share = chart.total("time/evaluate") / spent if spent else 0.0
    if share < MEASURED or chart.step < 2 * stage.evaluation.every:
        return None
    evidence = f"evaluation took {share:.0%} of the time so far"
    return finding(chart, "bound by evaluation", 0, evidence, ("evaluation.every", 5 * stage.evaluation.every))


def _bound(chart: Chart, phase: str, limit: float) -> tuple[int, str] | None:
    """The first step and the evidence, where a phase has at least that share of the median step."""
    times = {name: dict(chart.recent(f"time/{name}")) for name in PHASES[:-1]}
    learned = {step for step, _ in chart.recent("grad_norm")}
    steps = sorted(learned & times[phase].keys())
    totals = {step: sum(seconds.get(step, 0.0) for seconds in times.values()) for step in steps}
    shares = [times[phase][step] / totals[step] for step in steps if totals[step]]
    if len(shares) < ENOUGH or median(shares) < limit:
        return None
    seconds = median(times[phase][step] for step in steps)
    return steps[
        0
    ], f"{median(shares):.0%} of the median step, {seconds:.2g} s of {median(totals.values()):.2g} s, is {phase}"


def _tokens_learned(chart: Chart) -> float:
    """The tokens of the median step, which are cut into micro-batches."""
    rates = dict(chart.recent("tokens/learn_per_s"))
    tokens = [rates[step] * seconds for step, seconds in chart.recent("time/learn") if step in rates]
    return median(tokens) if tokens else 0.0


def _seconds(chart: Chart, reward: RewardSettings) -> float:
    points = chart.recent(f"time/reward/{reward.shown_as}")
    return median(value for _, value in points) if points else 0.0


def _faster(reward: RewardSettings, place: str) -> tuple[str, Any]:
    if reward.name == "judge" and reward.options.get("opponents", 1) > 1:
        return f"{place}.options.opponents", 1
    if ":" in reward.name and not reward.isolate:
        return f"{place}.isolate", True  # its calls run side by side, in worker processes
    return f"{place}.name", "a faster one"
