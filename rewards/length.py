"""Rewards of the number of tokens and of what they repeat.

The ramps are linear, so that the gradient does not vanish between their ends.
"""

from collections.abc import Sequence
from itertools import pairwise

from grpo.settings import Count, NonNegative


def length(completion: str, completion_tokens: int, *, target: Count, buffer: Count) -> float:
    """1 up to `target` tokens, falling evenly to 0 at `target + buffer`: DAPO's ramp as a reward of brevity.

    >>> length("", 150, target=100, buffer=100)
    0.5
    """
    return 1.0 - min(max((completion_tokens - target) / buffer, 0.0), 1.0)


def overlong(completion: str, completion_tokens: int, *, max_tokens: Count, buffer: Count) -> float:
    """DAPO's soft overlong punishment (2503.14476, eq. 13): 0 up to `max_tokens - buffer`, -1 from `max_tokens` on.

    >>> overlong("", 18432, max_tokens=20480, buffer=4096)
    -0.5
    """
    return -min(max((completion_tokens - (max_tokens - buffer)) / buffer, 0.0), 1.0)


def repetition(completion: str, *, n: Count = 4, allowed: NonNegative = 0.1) -> float:
    """0 for a text whose words go on without repeating themselves, down to -1: minus the share of repeated n-grams.

    A share up to `allowed` costs nothing. Letters of scripts without spaces are words; so is any run of the same sign.

    >>> repetition("wait " * 100), repetition("we add two and three and get five")
    (-1.0, 0.0)
    """
    words = _words(completion)
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    if not grams:
        return 0.0
    share = 1 - len(set(grams)) / len(grams)
    return -round(min(max((share - allowed) / (0.9 - min(allowed, 0.8)), 0.0), 1.0), 6) or 0.0


def _words(text: str) -> Sequence[str]:
    found: list[str] = []
    start = 0
    kinds = [_kind(char) for char in text]
    for position, (before, after) in enumerate(pairwise([*kinds, ""]), 1):
        if before != after or before == "letter without spaces":
            if before:
                found.append(text[start:position].casefold())
            start = position
    return found


def _kind(char: str) -> str:
    if char.isspace():
        return ""
    if "\u3040" <= char <= "\u9fff" or "\u0e00" <= char <= "\u0e7f":
        return "letter without spaces"
    return "word" if char.isalnum() else char
