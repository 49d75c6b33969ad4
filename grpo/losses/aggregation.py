"""How token losses become one number. B: sequences of a minibatch, N: trained tokens, laid flat."""

import torch
from torch import Tensor

from grpo.kernels.rows import add_up
from grpo.loss_settings import Aggregation


def sequence_weights(
    lengths_B: Tensor, trained_B: Tensor, mode: Aggregation, max_length: int, count_masked: bool = True
) -> Tensor:
    """Return float64 weights_B, such that the loss is the sum over all tokens of weights_B[sequence] * token loss.

    Over the whole minibatch, whatever its split, the modes are: seq-mean-token-mean 1 / (B L_i), token-mean
    1 / sum L, seq-mean-token-sum 1 / B, seq-mean-token-sum-norm 1 / (B max_length). Lengths 2 and 3 give 1/4 and 1/6,
    1/5, 1/2, and 1/16 for max_length 8.

    Sequences with `trained_B` False are masked: their weight is 0, their tokens never count in token-mean, and they
    count in B (as in TRL) unless `count_masked` is False (as in verl).
    """
    lengths_B = lengths_B.double()
    counted = trained_B.numel() if count_masked else int(trained_B.sum())
    sequences = max(counted, 1)
    if mode == "seq-mean-token-mean":
        weights_B = 1 / (sequences * lengths_B.clamp(min=1))
    elif mode == "token-mean":
        weights_B = 1 / (lengths_B * trained_B).sum().clamp(min=1).expand_as(lengths_B)
    elif mode == "seq-mean-token-sum":
        weights_B = torch.full_like(lengths_B, 1 / sequences)
    else:
        weights_B = torch.full_like(lengths_B, 1 / (sequences * max_length))
    return weights_B * trained_B


def sequence_sum(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Sum the tokens of each of S sequences, differentiably; a sequence without tokens has 0."""
    return add_up(values_N[:, None], sequence_N, sequences)[:, 0]


def sequence_mean(values_N: Tensor, sequence_N: Tensor) -> Tensor:
    """Give every token the mean over its own sequence, differentiably: [1, 3 | 5] becomes [2, 2 | 5]."""
    lengths_S = torch.bincount(sequence_N)
    return (sequence_sum(values_N, sequence_N, lengths_S.numel()) / lengths_S)[sequence_N]
