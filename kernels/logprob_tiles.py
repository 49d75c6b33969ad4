"""What is done with a tile of logits: the plain version. N: tokens, V: the tile's part of the vocabulary from `first`.

Logits come as float32 or float64, and each token's row is met tile by tile, as in an online softmax.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RowState(NamedTuple):
    """Of the logits z so far: the largest m, sum exp(z - m), sum (z - m) exp(z - m), and the target's, once met."""

    top_N: Tensor
    sum_N: Tensor
    moment_N: Tensor
    target_N: Tensor

    @classmethod
    def empty(cls, like_N: Tensor) -> "RowState":
        """Before the first tile; `like_N` gives size, dtype and device."""
        return cls(torch.full_like(like_N, -torch.inf), *(torch.zeros_like(like_N) for _ in range(3)))

    def log_total(self) -> Tensor:
        """The logarithm of sum exp(z), (N,)."""
        return self.top_N + self.sum_N.log()

    def logprobs(self) -> Tensor:
        """The targets' log-probabilities; the difference of the two large numbers comes first."""
        return self.target_N - self.top_N - self.sum_N.log()

    def entropy(self) -> Tensor:
        """The rows' entropy in nats: ln sum exp(z - m) - mean (z - m), in which nothing large cancels."""
        return self.sum_N.log() - self.moment_N / self.sum_N

    def likeliest(self) -> Tensor:
        """The probability of the likeliest token."""
        return 1 / self.sum_N


class RowGradient(NamedTuple):
    """The loss's derivatives by a row's log-probability and entropy, and what the rows' distributions are made of."""

    logprob_N: Tensor
    entropy_N: Tensor
    log_total_N: Tensor
    entropy_value_N: Tensor


def absorb(state: RowState, logits_NV: Tensor, target_ids_N: Tensor, first: int) -> RowState:
    """Take in a tile. It may be overwritten."""
    place_N = target_ids_N - first
    here_N = (place_N >= 0) & (place_N < logits_NV.shape[1])
    met_N = logits_NV.gather(1, place_N.clamp(0, logits_NV.shape[1] - 1)[:, None]).squeeze(1)
    top_N = torch.maximum(state.top_N, logits_NV.amax(1))
    shifted_NV = logits_NV.sub_(top_N[:, None])
    weights_NV = shifted_NV.exp()
    fall_N = state.top_N - top_N  # -inf before the first tile, where the sums are 0
    shrink_N = fall_N.exp()
    moved_N = state.moment_N + (fall_N * state.sum_N).nan_to_num(0.0)
    return RowState(
        top_N,
        shrink_N * state.sum_N + weights_NV.sum(1),
        shrink_N * moved_N + weights_NV.mul_(shifted_NV).sum(1),
        met_N.where(here_N, state.target_N),
    )


def tile_gradient(logits_NV: Tensor, rows: RowGradient, target_ids_N: Tensor, first: int) -> Tensor:
    """The loss's derivative by the logits of a tile, which may be overwritten.

    By a log-probability it is [v is the target] - p_v, by the entropy H it is -p_v (ln p_v + H).
    """
    logprobs_NV = logits_NV.sub_(rows.log_total_N[:, None])
    whole_N = -(rows.logprob_N + rows.entropy_N * rows.entropy_value_N)
    if rows.entropy_N.any():
        gradient_NV = logprobs_NV.exp()
        gradient_NV *= logprobs_NV.mul_(-rows.entropy_N[:, None]).add_(whole_N[:, None])
    else:
        gradient_NV = logprobs_NV.exp_().mul_(whole_N[:, None])
    place_N = target_ids_N - first
    here_N = (place_N >= 0) & (place_N < logits_NV.shape[1])
    share_N1 = torch.where(here_N, rows.logprob_N, 0)[:, None]
    return gradient_NV.scatter_add_(1, place_N.clamp(0, logits_NV.shape[1] - 1)[:, None], share_N1)
