"""GSPO (arXiv 2507.18071, eq. 5-7): one ratio a sequence. N: trained tokens."""

from torch import Tensor

from grpo.losses.aggregation import sequence_mean
from grpo.losses.surrogate import TokenLoss, clipped_surrogate


def gspo_loss(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Clip s_i = exp(mean_t log ratio), the same for all tokens of a sequence, whose advantages are equal too.

    Every token carries the loss l_i of its sequence: seq-mean-token-mean makes it GSPO's (1/B) sum l_i,
    seq-mean-token-sum makes it LUSPO's (1/B) sum L_i l_i. `clipped_N`: tokens of sequences that lost their gradient.
    """
    log_ratio_N = sequence_mean(policy_logprobs_N - sampler_logprobs_N, sequence_N)
    return clipped_surrogate(log_ratio_N, advantages_N, clip_low, clip_high)
