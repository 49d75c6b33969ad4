"""GMPO (arXiv 2507.20673): the geometric mean of token ratios. N: trained tokens."""

from torch import Tensor

from grpo.losses.aggregation import sequence_mean
from grpo.losses.surrogate import MAX_LOG_RATIO, TokenLoss, one_sided


def gmpo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    log_clip_low: float,
    log_clip_high: float,
) -> TokenLoss:
    """-A exp(mean_t d_t), with each log ratio d clipped above where A > 0 and below where A < 0.

    Every token carries the loss of its sequence. `clipped_N`: tokens that no longer move their sequence's ratio.
    """
    log_ratio_N = policy_logprobs_N - sampler_logprobs_N
    low_N, high_N = one_sided(advantages_N.to(log_ratio_N.dtype), -log_clip_low, log_clip_high, MAX_LOG_RATIO)
    mean_N = sequence_mean(log_ratio_N.clamp(min=low_N, max=high_N), sequence_N)
    outside_N = (log_ratio_N < low_N) | (log_ratio_N > high_N)
    return TokenLoss(-advantages_N * mean_N.exp(), outside_N & (advantages_N != 0))
