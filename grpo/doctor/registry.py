"""Every finding, in the order in which they are told: what stops learning first, what merely slows it last."""

from collections.abc import Callable

from grpo.doctor.chart import Chart
from grpo.doctor.failures import verifier_errors
from grpo.doctor.finding import Finding
from grpo.doctor.lengths import length_collapse, length_explosion, truncation
from grpo.doctor.loss import gradient_spikes, loss_diverging, not_finite
from grpo.doctor.policy import clipping_saturated, entropy_collapse, entropy_explosion, kl_growth, sampler_mismatch
from grpo.doctor.progress import hacking, held_out_flat
from grpo.doctor.routers import router_collapse
from grpo.doctor.throughput import evaluation_bound, learn_bound, reward_bound, rollout_bound, sync_bound
from grpo.doctor.verdicts import format_never_found, no_signal, solved

Find = Callable[[Chart], Finding | None]
"""The sickness of a stage at its newest step, or None. It has no memory: what it knows is the chart."""

FINDINGS: tuple[Find, ...] = (
    not_finite,
    verifier_errors,
    format_never_found,
    no_signal,
    loss_diverging,
    hacking,
    entropy_collapse,
    entropy_explosion,
    length_collapse,
    length_explosion,
    truncation,
    kl_growth,
    sampler_mismatch,
    clipping_saturated,
    router_collapse,
    gradient_spikes,
    held_out_flat,
    solved,
    reward_bound,
    sync_bound,
    evaluation_bound,
    rollout_bound,
    learn_bound,
)
