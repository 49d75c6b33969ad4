"""Which charts tell the story of a stage of each kind, and in which order."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grpo.metrics import PHASES
from grpo.report.charts import Groups, Spec, draw, preference_charts, time_chart

REWARD = Spec("Reward", {"reward/mean": "total"}, "Mean over the completions of a step, weights applied.", main=True)
ACCURACY = Spec(
    "Held-out accuracy",
    {"evaluation/accuracy": "greedy accuracy"},
    "On problems that are never trained on, with its 95 % interval, or from the lowest to the highest seed.",
    unit="share",
    main=True,
)
LENGTH = Spec(
    "Completion length",
    {"completion/length_mean": "mean", "completion/length_max": "longest", "completion/limit": "limit"},
    "Tokens.",
    main=True,
)
CUT = Spec(
    "Cut at the limit", {"completion/truncated": "share"}, "Completions that did not end by themselves.", "share"
)
SIGNAL = Spec(
    "Groups without signal",
    {"groups/zero_std": "share"},
    "All rewards of the group are equal, so that it teaches nothing.",
    "share",
    main=True,
)
ENTROPY = Spec(
    "Entropy",
    {"entropy": "entropy"},
    "Of the policy at sampling's temperature, nats a token, over the tokens that were learned from.",
)
TEMPERATURE = Spec("Temperature of sampling", {"temperature": "temperature"})
KL = Spec("KL to the reference", {"kl": "KL"}, "Nats a token.")
MISMATCH = Spec(
    "Sampler against policy",
    {"sampler/mismatch_mean": "mean", "sampler/mismatch_max": "largest"},
    "How far the engine's log-probabilities are from the learner's, nats a token.",
    log=True,
)
CLIPPED = Spec(
    "Clipped ratios",
    {"ratio/clipped": "share"},
    "Tokens that lost their gradient to the clip; under CISPO, whose weight it changed.",
    "share",
)
GRADIENT = Spec("Gradient norm", {"grad_norm": "norm"}, "Before clipping.")
RATE = Spec("Learning rate", {"lr": "lr"})
LOSS = Spec("Loss", {"loss": "loss"})
TRAINING_LOSS = replace(LOSS, main=True)
SPEED = Spec("Throughput", {"tokens/rollout_per_s": "sampled", "tokens/learn_per_s": "learned"}, "Tokens a second.")
MEMORY = Spec("Peak memory", {"memory/peak_mb": "MB"})
BALANCE = Spec(
    "Balance of experts",
    {"router/max_violation": "MaxVio"},
    "How far the busiest expert is above an even load: 0 is even, 1 is twice its share.",
)
ROUTING = Spec("Router entropy", {"router/entropy": "entropy"}, "As a share of an even choice.", "share")
DEAD = Spec("Experts without a token", {"router/dead": "experts"})
REROUTED = Spec("Rerouted tokens", {"router/rerouted": "share"}, "Engine and learner chose other experts.", "share")
MTP = Spec("Multi-token prediction", {"mtp/loss": "loss"}, "Loss of the further token.")
DRAFTS = Spec("Drafts that were right", {"speculative/acceptance": "share"}, "Of speculative decoding.", "share")
REWARD_MODEL_ACCURACY = Spec(
    "Held-out accuracy",
    {"evaluation/accuracy": "held out"},
    "Pairs in the right order, or labels met, with the 95 % interval, or from the lowest to the highest seed.",
    "share",
    main=True,
)
REWARD_MODEL_LOSS = Spec("Loss", {"loss": "training", "evaluation/loss": "held out"}, main=True)
CALIBRATION = Spec("Calibration error", {"evaluation/calibration_error": "held out"}, "0 is calibrated.")
SCORES = Spec("Scores", {"score/mean": "mean", "score/margin": "margin"}, "Of the training step.")

ROUTERS = (BALANCE, ROUTING, DEAD, REROUTED)
SPECS: dict[str, Sequence[Spec]] = {
    "grpo": (
        LENGTH, SIGNAL, CUT, ENTROPY, TEMPERATURE, KL, MISMATCH, CLIPPED, GRADIENT, LOSS, RATE, MTP, DRAFTS, *ROUTERS,
        SPEED, MEMORY,
    ),
    "sft": (TRAINING_LOSS, MTP, GRADIENT, RATE, *ROUTERS, SPEED, MEMORY),
    "reward_model": (REWARD_MODEL_LOSS, REWARD_MODEL_ACCURACY, CALIBRATION, SCORES, GRADIENT, RATE, SPEED, MEMORY),
    "rejection": (REWARD, LENGTH, CUT, SPEED),
}  # fmt: skip
"""By kind of stage. Those of an evaluation are tables."""

FAILED = ("error", "timeout")
NOT_APPLICABLE = "not_applicable"
NO_PARTS = ("mean", "std")
MEMBER = re.compile(r"(.*?)(source|router)/([^/]+)/(.+)")
DULL = ("step", "stage", "time", "model", "template")


def charts(kind: str, groups: Groups) -> list[dict[str, Any]]:
    """The charts of a stage, the ones that matter most first."""
    if not groups:
        return []
    drawn = [chart for spec in _first(kind, groups) for chart in draw(spec, groups)]
    wide = preference_charts(groups) if kind == "grpo" else []
    rest = [chart for spec in SPECS.get(kind, ()) for chart in draw(spec, groups)]
    return drawn + wide + rest + time_chart(groups)


def other_charts(kind: str, groups: Groups) -> list[dict[str, Any]]:
    """A chart of every figure that no other chart has: nothing that was measured is hidden."""
    known = {name for spec in (*_first(kind, groups), *SPECS.get(kind, ())) for name in spec.figures}
    left = [name for name in _names(groups) if name not in known and not _drawn_elsewhere(name) and _says(groups, name)]
    families: dict[str, dict[str, str]] = {}
    for name in left:
        title, label = _family(name)
        families.setdefault(title, {})[name] = label
    return [chart for title, figures in families.items() for chart in draw(Spec(title, figures), groups)]


def _family(name: str) -> tuple[str, str]:
    """The chart of a figure and its label there: sources of a mixture, routers of a policy, rewards share one.

    >>> _family("router/3/entropy"), _family("sampler/chi2"), _family("reward/format/not_applicable")
    (('entropy by router', '3'), ('sampler/chi2', 'sampler/chi2'), ('Rewards that do not apply', 'format'))
    """
    if name.endswith(f"/{NOT_APPLICABLE}"):
        return "Rewards that do not apply", name.removeprefix("reward/").removesuffix(f"/{NOT_APPLICABLE}")
    if name.startswith("watch/"):
        return "What is watched for reward hacking", name.removeprefix("watch/")
    found = MEMBER.fullmatch(name)
    return (f"{found[1]}{found[4]} by {found[2]}", found[3]) if found else (name, name)


def _first(kind: str, groups: Groups) -> list[Spec]:
    return [REWARD, ACCURACY, _parts(groups), _failures(groups)] if kind == "grpo" else []


def _parts(groups: Groups) -> Spec:
    """The rewards by name. Those of preference have a chart of their own."""
    names = _names(groups)
    parts = [
        name
        for name in names
        if name.startswith("reward/")
        and name.count("/") == 1
        and name.removeprefix("reward/") not in NO_PARTS
        and name.replace("reward/", "watch/", 1) not in names
    ]
    return Spec(
        "Rewards by name",
        {name: name.removeprefix("reward/") for name in parts},
        "Means over the completions that each applies to, before weights.",
        main=True,
    )


def _failures(groups: Groups) -> Spec:
    """The rewards that failed at all."""
    failed = [
        name
        for name in _names(groups)
        if name.startswith("reward/") and name.rpartition("/")[2] in FAILED and _ever(groups, name)
    ]
    labels = {name: name.removeprefix("reward/").replace("/", ": ") for name in failed}
    return Spec("Rewards that failed", labels, "Completions of a step that could not be scored.")


def _says(groups: Groups, name: str) -> bool:
    """Whether a figure says anything: counts of what never came up do not."""
    return not name.endswith(f"/{NOT_APPLICABLE}") or _ever(groups, name)


def _ever(groups: Groups, name: str) -> bool:
    return any(row.get(name) for runs in groups.values() for rows in runs for row in rows)


def _names(groups: Groups) -> list[str]:
    """The figures that are numbers, in the order in which they appear."""
    found = dict.fromkeys(
        name
        for runs in groups.values()
        for rows in runs
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and name not in DULL
    )
    return list(found)


def _drawn_elsewhere(name: str) -> bool:
    if name.startswith("reasons/") or name in [f"time/{phase}" for phase in PHASES]:
        return True
    return name.endswith(("_low", "_high")) or (name.startswith("reward/") and name.rpartition("/")[2] in FAILED)
