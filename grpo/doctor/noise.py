"""What a few noisy steps let one claim."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, variance

from grpo.evaluation import wilson_interval

SURE = 3.0
"""Standard errors that count as a difference: 1 in 700 by chance on one side. A finding is asked at every step, so that
2 would come up by chance in every longer run."""


def least_share(share: float, n: int) -> float:
    """The lower end of the 95 % interval of a share of n (Wilson's)."""
    return wilson_interval(min(max(share, 0.0), 1.0) * n, n)[0] if n else 0.0


def rise(before: Sequence[float], after: Sequence[float]) -> float:
    """How many standard errors the mean has risen by (Welch); infinite where neither varies and they differ.

    >>> round(rise([1, 2, 3], [4, 5, 6]), 2), rise([1, 1], [2, 2]), rise([1, 1], [1, 1])
    (3.67, inf, 0.0)
    """
    if len(before) < 2 or len(after) < 2:
        return 0.0
    difference = fmean(after) - fmean(before)
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def trend(series: Sequence[float]) -> float:
    """Mann and Kendall's test: how many standard deviations more pairs rise than fall, in any shape of a rise.

    >>> round(trend([1, 2, 3, 4, 5]), 2), trend([1, 1, 1])
    (2.2, 0.0)
    """
    n = len(series)
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(series, 2))
    spread = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return (score - math.copysign(1, score)) / spread if score else 0.0
