"""CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4-5). N: trained tokens."""

import math

from torch import Tensor

from grpo.losses.surrogate import TokenLoss


def cispo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float | None,
    clip_high: float,
) -> TokenLoss:
    """-sg[clip(r, 1 - clip_low, 1 + clip_high)] A log policy: every token keeps a gradient.

    `clip_low` None sets no lower bound. TRL writes the upper bound itself, 1 + clip_high, as `epsilon_high`.
    `clipped_N`: tokens whose weight the clip changed.
    """
    ratio_N = (policy_logprobs_N.detach() - sampler_logprobs_N).exp()
    low = -math.inf if clip_low is None else 1 - clip_low
    weight_N = ratio_N.clamp(low, 1 + clip_high)
    return TokenLoss(-weight_N * advantages_N * policy_logprobs_N, weight_N != ratio_N)
