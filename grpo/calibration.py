"""How right the probabilities of a judge are: calibration, Brier score, the area under the ROC curve."""

import math
from collections.abc import Sequence
from statistics import fmean

BINS = 10


def sigmoid(x: float) -> float:
    """The probability of log-odds, without overflow.

    >>> sigmoid(0.0), sigmoid(-1000.0)
    (0.5, 0.0)
    """
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error: |mean outcome - mean probability| in bins of equal width, weighted by their counts.

    Guo et al. 2017 (1706.04599), eq. 3. Probabilities 0.9, 0.9, 0.6 with outcomes 1, 0, 1: (2 * 0.4 + 1 * 0.4) / 3.

    >>> round(calibration_error([0.9, 0.9, 0.6], [1, 0, 1]), 6)
    0.4
    """
    members: dict[int, list[tuple[float, float]]] = {}
    for probability, outcome in zip(probabilities, outcomes, strict=True):
        members.setdefault(min(int(probability * bins), bins - 1), []).append((probability, outcome))
    gaps = [len(rows) * abs(fmean(o for _, o in rows) - fmean(p for p, _ in rows)) for rows in members.values()]
    return sum(gaps) / len(probabilities)


def brier_score(probabilities: Sequence[float], outcomes: Sequence[float]) -> float:
    """The mean square of probability - outcome: 0 is perfect, 0.25 what a coin gets.

    >>> brier_score([0.5, 0.0], [1, 0])
    0.125
    """
    return fmean((p - o) ** 2 for p, o in zip(probabilities, outcomes, strict=True))


def roc_area(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """The chance that a positive scores above a negative, ties counting half; None where one kind is missing.

    >>> roc_area([3, 1, 2, 0], [1, 1, 0, 0])
    0.75
    """
    positives = sum(label >= 0.5 for label in labels)
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    rank_sum, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        mean_rank = (start + 1 + end) / 2
        rank_sum += mean_rank * sum(labels[i] >= 0.5 for i in order[start:end])
        start = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
