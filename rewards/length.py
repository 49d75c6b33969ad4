"""Rewards of the number of tokens. Both are linear ramps, so that the gradient does not vanish between their ends."""

from grpo.settings import Count


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
