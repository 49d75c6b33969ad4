"""Dr. GRPO (arXiv 2503.20783): GRPO without the two divisions that bias it. N: trained tokens."""

from torch import Tensor

from grpo.losses.grpo import grpo_loss
from grpo.losses.surrogate import TokenLoss


def dr_grpo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """GRPO's token loss; Dr. GRPO differs in its advantage (no std) and its aggregation (no division by length)."""
    return grpo_loss(
        policy_logprobs_N,
        sampler_logprobs_N,
        advantages_N,
        sequence_N,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=None,
        delta=None,
    )
