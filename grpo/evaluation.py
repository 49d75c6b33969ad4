"""Figures of an evaluation, with intervals that say how much the number of problems lets one claim."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from statistics import NormalDist, fmean, stdev

from grpo.types import Score, UserError

RIGHT = 1.0
"""The value of an accuracy reward from which on an answer counts as right."""


def is_right(score: Score, accuracy: str) -> bool:
    """Whether the reward named `accuracy` found the answer right. An answer it failed on is not right."""
    value = score.parts.get(accuracy)
    return value is not None and value >= RIGHT


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that k of n samples, c of them right, hold a right one: 1 - C(n - c, k) / C(n, k).

    Unbiased (arXiv 2107.03374, eq. 1); k = 1 is the share of right samples, which DeepSeek-R1 calls pass@1.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise UserError(f"pass@k: expected 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}: take more samples")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def winners(votes: Sequence[Hashable | None]) -> list[Hashable]:
    """Return the commonest vote, or all of them where several are equally common; None, unreadable, never wins."""
    counts = Counter(vote for vote in votes if vote is not None)
    return [vote for vote, count in counts.items() if count == max(counts.values())]


def cons_at_k(votes: Sequence[Hashable | None], right: Collection[Hashable], k: int) -> float:
    """Return how often the majority of k samples is right (cons@k; `right` holds the right votes).

    Of n samples it is the mean over n // k separate samples of k, in their order. A tie counts as the share of its
    winners that are right: what drawing lots among them comes to on average, and the same every time.
    """
    if not 1 <= k <= len(votes):
        raise UserError(f"cons@k: expected 1 <= k <= n, got n={len(votes)}, k={k}: take more samples")
    parts = [winners(votes[start : start + k]) for start in range(0, len(votes) - k + 1, k)]
    return fmean(sum(vote in right for vote in won) / len(won) if won else 0.0 for won in parts)


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share; unlike the normal one it stays in 0..1 and never has width 0."""
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"interval: expected n >= 1 and 0 <= successes <= n, got {successes} of {n}: evaluate problems")
    z = _z(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the normal interval mean +- z std / sqrt(n) of values in 0..1, one a problem, such as its pass@k.

    It treats problems as the sample, so it covers the choice of problems as well as of completions. Equal values say
    nothing about the spread; for them it is Wilson's, the widest that a mean of values in 0..1 can need.
    """
    if len(set(values)) < 2:
        return wilson_interval(sum(values), len(values), confidence)
    low, high = normal_interval(values, confidence)
    return max(low, 0.0), min(high, 1.0)


def normal_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return mean +- z std / sqrt(n) of values on any scale; of one value alone, nothing but itself twice."""
    mean = fmean(values)
    half = _z(confidence) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - half, mean + half


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
