"""DAPO (arXiv 2503.14476): GRPO with a higher upper clip. N: trained tokens."""

from torch import Tensor

from grpo.losses.grpo import grpo_loss
from grpo.losses.surrogate import TokenLoss


def dapo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """GRPO's token loss; what else makes DAPO is the token-mean aggregation, dynamic sampling and length shaping."""
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
