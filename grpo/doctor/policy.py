"""How the policy moves: its entropy, its distance from the reference, from the sampler, and what the clip does."""

from statistics import fmean, median

from grpo.curriculum_settings import begun
from grpo.doctor.chart import EARLY, ENOUGH, WINDOW, Chart, values
from grpo.doctor.finding import Finding, finding
from grpo.doctor.noise import SURE, rise
from grpo.doctor.stage import accuracy_reward, has_gained, has_risen, lower_rate, problems_since, updates_a_step
from grpo.grpo_stage import GrpoStage

LEFT = 0.1
"""Share of the first steps' entropy that is a collapse. What reinforcement learning gains it pays for with entropy, and
with none left it gains nothing more (arXiv 2505.22617: R = -a exp(H) + b), so a fall alone is no sickness: one that has
bought nothing is, or one after which nothing more is gained."""
PLATEAU = 3 * WINDOW
"""Steps without a gain after which a policy without entropy is stuck."""
GOOD = 0.9
"""Accuracy from which on little entropy is as it should be."""
TIMES = 2.0
"""How much the first steps' entropy must have grown to be an explosion."""
NOISY = 1.0
"""Nats a token from which on entropy may be an explosion: below e choices a token, twice as many are still few."""
FAR = 1.0
"""Nats a token from the reference: each token is on average e times likelier than there, or less likely. That is no
tuned model any more but another one."""
APART, CORRECTED = 0.001, 0.01
"""KL between sampler and learner in nats a token, before the first update, that asks for a correction, and that is too
much for one: verl's documentation of rollout correction rejects by this estimator (k3) from 0.001 to 0.01. Engines in
float32 come to 1e-10, in bfloat16 to about 1e-4."""
ROUNDING = 1e-5
"""KL below which growth means nothing."""
GROWTH = 10.0
"""How many times the first steps' KL to the sampler it must be to have grown."""
CLIPPED = 0.25
"""Share of tokens without gradient, in updates after a step's first. In PPO's manner of clipping it is of the order of
0.001, in GSPO's of 0.15 (arXiv 2507.18071, section 5.2), which clips whole sequences."""
CLIPPED_SEQUENCES = 0.5
"""The same for losses whose clip takes whole sequences."""


def entropy_collapse(chart: Chart) -> Finding | None:
    """Entropy is gone, and what is right has not risen for it, or rises no more and is not good."""
    moved = _entropy(chart)
    stage = chart.stage
    if not isinstance(stage, GrpoStage) or moved is None:
        return None
    before, after, first = moved
    if fmean(after) > LEFT * fmean(before) or -rise(before, after) <= SURE:
        return None
    stuck = chart.step > PLATEAU + WINDOW and not has_gained(chart, PLATEAU)
    if _is_good(chart) or (has_gained(chart) and not stuck):
        return None
    judge = f"reward/{accuracy_reward(stage) or 'mean'}" if stage.curriculum is None else "evaluation/accuracy"
    evidence = (
        f"entropy fell from {fmean(before):.3g} to {fmean(after):.3g} nats a token, and {judge} "
        + ("rises no more" if has_gained(chart) else "has not risen")
        + f" (now {chart.latest(judge) or 0.0:.2f})"
    )
    clips = updates_a_step(stage) > 1 and stage.loss.kind == "grpo" and stage.loss.clip_high < 0.28
    bonus = max(2 * stage.entropy.bonus, 0.001)  # SimpleRL-Zoo's; DAPO's clip where a clip acts at all
    return finding(
        chart, "entropy collapse", first, evidence, ("loss.clip_high", 0.28) if clips else ("entropy.bonus", bonus)
    )


def entropy_explosion(chart: Chart) -> Finding | None:
    """Entropy has doubled and is large, and what is right has not risen: the policy turns into noise."""
    moved = _entropy(chart)
    stage = chart.stage
    if not isinstance(stage, GrpoStage) or moved is None or has_gained(chart):
        return None
    first_steps, after, first = moved
    before = first_steps[:EARLY]
    if fmean(after) < TIMES * fmean(before) or rise(before, after) <= SURE or fmean(after) < NOISY:
        return None
    evidence = f"entropy rose from {fmean(before):.3g} to {fmean(after):.3g} nats a token, and no more is right"
    change = ("entropy.bonus", stage.entropy.bonus / 10) if stage.entropy.bonus else lower_rate(stage)
    return finding(chart, "entropy explosion", first, evidence, change)


def kl_growth(chart: Chart) -> Finding | None:
    """The policy is far from its reference. The median step counts: one token may make a mean as large as it likes."""
    stage, points = chart.stage, chart.recent("kl")
    if not isinstance(stage, GrpoStage) or len(points) < ENOUGH or median(values(points)) < FAR:
        return None
    evidence = f"KL to the reference is {median(values(points)):.2g} nats a token (median of {len(points)} steps)"
    # It was worth something, or else it is not the penalty that is too small. DeepSeekMath's beta is 0.04, R1's 0.001.
    buys = has_risen(chart) and stage.kl.beta < 0.04
    change = ("kl.beta", min(10 * stage.kl.beta, 0.04)) if buys else lower_rate(stage)
    return finding(chart, "KL growth", points[0][0], evidence, change)


def sampler_mismatch(chart: Chart) -> Finding | None:
    """Engine and learner disagree on the probabilities of the same tokens, by much, or by ever more."""
    stage, points = chart.stage, chart.recent("sampler/kl")
    if not isinstance(stage, GrpoStage) or len(points) < ENOUGH:
        return None
    now, then = median(values(points)), median(values(chart.first("sampler/kl")))
    grown = now > GROWTH * max(then, ROUNDING)
    if now < (APART if stage.correction is None else CORRECTED) and not grown:
        return None
    evidence = f"KL between engine and learner is {now:.2g} nats a token (median step), {then:.2g} in the first steps"
    change: tuple[str, object] = "correction", {"kind": "token_truncate"}
    if stage.correction is not None and stage.precision != "fp32":
        change = "precision", "fp32"
    elif stage.correction is not None:
        masks = stage.correction.kind == "sequence_mask"
        change = lower_rate(stage) if masks else ("correction", {"kind": "sequence_mask"})
    return finding(chart, "sampler mismatch", points[0][0], evidence, change)


def clipping_saturated(chart: Chart) -> Finding | None:
    """The clip takes the gradient of a large share of tokens, in the updates that it can act on.

    A step's first update is at ratio 1; of m updates the share is spread over the other m - 1.
    """
    stage, points = chart.stage, chart.recent("ratio/clipped")
    if not isinstance(stage, GrpoStage) or len(points) < ENOUGH or stage.loss.kind == "cispo":
        return None  # CISPO's clip takes no gradient
    updates = updates_a_step(stage)
    share = min(median(values(points)) * (updates / (updates - 1) if updates > 1 else 1), 1.0)
    if share < (CLIPPED_SEQUENCES if stage.loss.kind in ("gspo", "gmpo") else CLIPPED):
        return None
    evidence = f"{share:.0%} of the tokens were clipped and had no gradient" + (
        " after a step's first update" if updates > 1 else ""
    )
    return finding(chart, "clipping saturated", points[0][0], evidence, _smaller_steps(stage))


def _entropy(chart: Chart) -> tuple[list[float], list[float], int] | None:
    """Entropy in the first steps as things are now, and in the newest ones that measured it, and since when.

    It is that of sampling, so another temperature is another entropy, and so are other problems. Steps without signal
    do not measure it, and a policy without entropy has many of them.
    """
    points = chart.all("entropy")
    start = chart.place("entropy", max(_temperature_since(chart), problems_since(chart.stage, chart.step)))
    later = points[max(start + ENOUGH, len(points) - WINDOW) :]
    if len(later) < ENOUGH or not chart.recent("entropy"):
        return None
    return values(points[start : start + ENOUGH]), values(later), later[0][0]


def _temperature_since(chart: Chart) -> int:
    entry = begun(chart.stage.temperature_schedule, chart.step) if isinstance(chart.stage, GrpoStage) else None
    return 0 if entry is None else entry.step


def _is_good(chart: Chart) -> bool:
    name = accuracy_reward(chart.stage)
    points = chart.recent(f"reward/{name}") if name else []
    return bool(points) and fmean(values(points)) >= GOOD


def _smaller_steps(stage: GrpoStage) -> tuple[str, object]:
    """Fewer updates from a rollout, or smaller ones."""
    if stage.epochs_per_step > 1:
        return "epochs_per_step", stage.epochs_per_step // 2
    if stage.minibatches_per_step > 1:
        fewer = range(stage.minibatches_per_step // 2, 0, -1)
        return "minibatches_per_step", next(n for n in fewer if stage.prompts_per_step % n == 0)
    return lower_rate(stage)
