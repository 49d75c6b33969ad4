"""SAPO (arXiv 2511.20347): a sigmoid gate in place of the clip. N: trained tokens."""

import torch
from torch import Tensor

from grpo.losses.surrogate import MAX_LOG_RATIO, TokenLoss


def sapo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    tau_positive: float,
    tau_negative: float,
) -> TokenLoss:
    """-A (4 / tau) sigmoid(tau (r - 1)): slope -A at r = 1, fading smoothly on both sides, faster for larger tau.

    `tau_positive` serves A > 0, `tau_negative` the rest. `clipped_N` is False everywhere: there is no clip.
    """
    ratio_N = (policy_logprobs_N - sampler_logprobs_N).clamp(max=MAX_LOG_RATIO).exp()
    number = ratio_N.new_tensor
    tau_N = torch.where(advantages_N > 0, number(tau_positive), number(tau_negative))
    gate_N = torch.sigmoid(tau_N * (ratio_N - 1)) * 4 / tau_N
    return TokenLoss(-gate_N * advantages_N, torch.zeros_like(advantages_N, dtype=torch.bool))
