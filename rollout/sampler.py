"""The choice of the next token: inverse-CDF sampling from numbers that are drawn before, so that a seed says it all.

Axes: B rows, O rows that go on from them, Q of them at most from one, V vocabulary, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grpo.rollout.engine import Sampling

COUNTS = 2.0**52
"""Probabilities become whole counts of 2^-52: their sums are exact, so that on every device a token of probability 0
has an empty interval and is never chosen. Below 2^53, float64 holds every count."""


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """`count` float64 numbers in [0, 1) per seed, shape (B, T): number t of a seed is the same for every count.

    NumPy's PCG64 uses all 64 bits of a seed; torch's CPU generator uses the lower 32.
    """
    rows = [np.random.Generator(np.random.PCG64(seed)).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def choose(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next token and its natural-log probability, float32, both (B,).

    The probability is that of the whole softmax at the sampling temperature: `top_p` cuts the choice, not the
    probability. Temperature 0 takes the likeliest token (of equals, the first) and tells its probability at 1.
    """
    return choose_from(logits_BV, torch.arange(len(logits_BV), device=logits_BV.device), uniform_B, sampling)


def choose_from(logits_BV: Tensor, row_O: Tensor, uniform_O: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The same of every row O that goes on from row `row_O` of the batch, which several may share."""
    logprobs_BV = log_probabilities(logits_BV, sampling)
    if sampling.temperature == 0:
        token_O = logprobs_BV.argmax(-1)[row_O]
    else:
        place_O = _places(row_O, len(logits_BV))
        uniform_BQ = uniform_O.new_zeros(len(logits_BV), int(place_O.max()) + 1)
        uniform_BQ[row_O, place_O] = uniform_O
        token_O = _inverse_cdfs(choice_counts(logprobs_BV, sampling), uniform_BQ)[row_O, place_O]
    return token_O, logprobs_BV[row_O, token_O]


def _places(row_O: Tensor, rows: int) -> Tensor:
    """How many before each O go on from the same row."""
    order_O, size_B = row_O.argsort(stable=True), row_O.bincount(minlength=rows)
    start_B, place_O = size_B.cumsum(0) - size_B, torch.empty_like(row_O)
    place_O[order_O] = torch.arange(len(row_O), device=row_O.device) - start_B[row_O[order_O]]
    return place_O


def log_probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Of the whole softmax at the sampling temperature, at 1 for temperature 0, in float32."""
    return torch.log_softmax(logits_BV.float() / (sampling.temperature or 1.0), dim=-1)


def choice_counts(logprobs_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that a token is drawn from, as whole counts (int64) of no fixed sum; greedy has one token."""
    if sampling.temperature == 0:
        return torch.zeros_like(logprobs_BV, dtype=torch.long).scatter_(-1, logprobs_BV.argmax(-1, keepdim=True), 1)
    return _nucleus((logprobs_BV.exp().double() * COUNTS).long(), sampling.top_p)


def inverse_cdf(counts_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first token whose cumulative count exceeds the share `uniform_B` of the row's total."""
    return _inverse_cdfs(counts_BV, uniform_B[:, None])[:, 0]


def _inverse_cdfs(counts_BV: Tensor, uniform_BQ: Tensor) -> Tensor:
    cdf_BV = counts_BV.cumsum(-1)
    total_B1 = cdf_BV[:, -1:]
    below_BQ = (uniform_BQ * total_B1).long().clamp(max=total_B1 - 1)
    # Rows with NaN have no intervals; the clamp keeps them inside the vocabulary until the caller sees their NaN.
    return torch.searchsorted(cdf_BV, below_BQ, right=True).clamp(max=counts_BV.shape[-1] - 1)


def _nucleus(counts_BV: Tensor, top_p: float) -> Tensor:
    """Set to 0 all but the smallest set of likeliest tokens whose mass reaches `top_p` (Holtzman et al. 2020, 3.1)."""
    if top_p >= 1:
        return counts_BV
    sorted_BV, order_BV = counts_BV.sort(dim=-1, descending=True, stable=True)
    cdf_BV = sorted_BV.cumsum(-1)
    kept_BV = cdf_BV - sorted_BV < top_p * cdf_BV[:, -1:]
    return torch.zeros_like(counts_BV).scatter(-1, order_BV, sorted_BV * kept_BV)
