"""GRPO: PPO's clipped surrogate on token ratios (DeepSeekMath, arXiv 2402.03300, eq. 3). N: trained tokens."""

from torch import Tensor

from grpo.losses.surrogate import TokenLoss, clipped_surrogate


def grpo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    delta: float | None,
) -> TokenLoss:
    """Clip each token's ratio policy / sampler. `clipped_N`: tokens whose gradient the clip removed."""
    log_ratio_N = policy_logprobs_N - sampler_logprobs_N
    return clipped_surrogate(log_ratio_N, advantages_N, clip_low, clip_high, dual_clip, delta)
