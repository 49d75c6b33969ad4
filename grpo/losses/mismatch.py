"""How far the trainer's and the sampler's probabilities of the same tokens lie apart, and what to do about it.

`policy_` is here the trainer's own computation with the weights that sampled; in exact arithmetic the two were equal.
N: trained tokens. rho = policy / sampler.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grpo.losses.aggregation import sequence_mean, sequence_sum

CorrectionKind = Literal["token_truncate", "sequence_truncate", "token_mask", "sequence_mask", "geometric_mask"]


@dataclass(frozen=True)
class Mismatch:
    """Figures over all tokens: KL(sampler, policy) by k1 and k3 in nats, |log rho|, and chi^2 = mean rho^2 - 1."""

    k1: float
    k3: float
    mean_abs: float
    max_abs: float
    chi2: float


def mismatch(policy_logprobs_N: Tensor, sampler_logprobs_N: Tensor) -> Mismatch:
    """Measure at least one token, in float64."""
    log_rho_N = policy_logprobs_N.detach().double() - sampler_logprobs_N.double()
    return Mismatch(
        k1=-log_rho_N.mean().item(),
        k3=(torch.expm1(log_rho_N) - log_rho_N).mean().item(),
        mean_abs=log_rho_N.abs().mean().item(),
        max_abs=log_rho_N.abs().max().item(),
        chi2=torch.expm1(2 * log_rho_N).mean().item(),
    )


def correction_weights(
    anchor_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    sequence_N: Tensor,
    kind: CorrectionKind,
    high: float,
    low: float = 0,
) -> Tensor:
    """Return the factor of each token's loss, without gradient; denominators of the aggregation stay as they are.

    rho is exp(anchor - sampler), the anchor being the learner's own computation with the weights that sampled.

    token_truncate: min(rho, high) (TIS). token_mask: rho inside [low, high], else 0 (MIS; 0.5 and 5 is IcePop).
    sequence_truncate, sequence_mask: the same with the product of rho over the sequence. geometric_mask: 1 where the
    geometric mean of rho over the sequence lies in [low, high], else 0.
    """
    log_rho_N = (anchor_logprobs_N - sampler_logprobs_N).detach()
    if kind.startswith("sequence"):
        sequences = int(sequence_N.max()) + 1
        log_rho_N = sequence_sum(log_rho_N, sequence_N, sequences)[sequence_N]
    elif kind == "geometric_mask":
        log_rho_N = sequence_mean(log_rho_N, sequence_N)
    rho_N = log_rho_N.exp()
    if kind.endswith("truncate"):
        return rho_N.clamp(max=high)
    inside_N = (rho_N >= low) & (rho_N <= high)
    weight_N = torch.ones_like(rho_N) if kind == "geometric_mask" else rho_N
    return torch.where(inside_N, weight_N, 0)


def on_policy_enough(
    policy_logprobs_N: Tensor, sampler_logprobs_N: Tensor, advantages_N: Tensor, sequence_N: Tensor, delta: float
) -> Tensor:
    """Return which tokens to keep: all but the sequences with A < 0 and mean_t log(sampler / policy) > delta.

    The off-policy sequence mask of DeepSeek-V3.2 (arXiv 2512.02556), which leaves delta open; TRL suggests 0.5.
    """
    drift_N = sequence_mean((sampler_logprobs_N - policy_logprobs_N).detach(), sequence_N)
    return (advantages_N >= 0) | (drift_N <= delta)
