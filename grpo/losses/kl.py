"""Penalties for leaving the reference model (arXiv 2510.01555 tells the estimators apart). N: trained tokens.

With d = log policy - log ref, averaged over on-policy samples:

| estimator | value        | is KL(policy, ref) | gradient, used as a loss                      |
|-----------|--------------|--------------------|-----------------------------------------------|
| k1        | d            | yes                | 0: it regularises only when placed in a reward |
| k2        | d^2 / 2      | no                 | that of KL(policy, ref)                       |
| k3        | e^-d + d - 1 | yes                | that of KL(ref, policy)                       |
| ratio_k3  | r k3         | yes                | that of KL(policy, ref), off-policy as well   |
"""

from typing import Literal

import torch
from torch import Tensor

from grpo.losses.aggregation import sequence_sum
from grpo.losses.surrogate import MAX_LOG_RATIO

Estimator = Literal["k1", "k2", "k3", "ratio_k3"]


def kl_penalty(
    policy_logprobs_N: Tensor, sampler_logprobs_N: Tensor, ref_logprobs_N: Tensor, estimator: Estimator
) -> Tensor:
    """Estimate each token's KL from the reference, in nats. `ratio_k3` has gradient through its ratio r, too."""
    if estimator == "k1":
        return policy_logprobs_N - ref_logprobs_N
    if estimator == "k2":
        return (policy_logprobs_N - ref_logprobs_N).square() / 2
    k3_N = _k3(policy_logprobs_N, ref_logprobs_N)
    if estimator == "k3":
        return k3_N
    return (policy_logprobs_N - sampler_logprobs_N).clamp(max=MAX_LOG_RATIO).exp() * k3_N


def rewards_less_kl(rewards_B: Tensor, kl_N: Tensor, sequence_N: Tensor, beta: float) -> Tensor:
    """Return r_i - beta * (sum of the sequence's token KLs), for `place: reward`. Unscorable (NaN) stays NaN.

    `kl_N` is taken before the update and carries no gradient; `sequence_N` indexes `rewards_B`.
    """
    return rewards_B - beta * sequence_sum(kl_N.detach().to(rewards_B.dtype), sequence_N, rewards_B.numel())


def _k3(policy_logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    # Tokens that the reference finds e^20 times likelier stop there, so that exp stays finite.
    d_N = (policy_logprobs_N - ref_logprobs_N).clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(-d_N) + d_N
