"""Curves and foreign text for a terminal: pure functions from values to characters."""

import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character's dots, four rows of two (Unicode 17, chapter 21)."""
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that a terminal obeys or hides: controls, directions and joiners, half surrogates, separators."""


def visible(text: str) -> str:
    """Show every character that would steer the terminal instead of printing; newlines stay.

    An escape character becomes ␛, a right-to-left override \\u202e.
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in INVISIBLE:
        return character
    if character == "\t":
        return "    "
    if character < " ":
        return chr(0x2400 + ord(character))
    return ascii(character)[1:-1]


def resample(values: Sequence[float], count: int) -> list[float]:
    """Bring a series to `count` values: means of neighbours where there are more, straight lines where fewer."""
    if len(values) > count:
        edges = [index * len(values) // count for index in range(count + 1)]
        parts = [values[start:end] for start, end in pairwise(edges)]
        return [sum(part) / len(part) for part in parts]
    places = [index * (len(values) - 1) / max(count - 1, 1) for index in range(count)]
    return [_between(values, place) for place in places]


def _between(values: Sequence[float], place: float) -> float:
    left = int(place)
    right = min(left + 1, len(values) - 1)
    return values[left] + (place - left) * (values[right] - values[left])


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw a series as bars, at most `width` of them, the lowest value ▁ and the highest █."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    return "".join(BARS[level] for level in _levels(resample(finite, min(width, len(finite))), len(BARS)))


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw a series as a line of braille dots, `height` rows of `width` characters, the highest row first."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return [" " * width] * height
    levels = _levels(resample(finite, 2 * width), 4 * height)
    cells = [[0x2800] * width for _ in range(height)]
    for column, (before, level) in enumerate(pairwise([levels[0], *levels])):
        # A steep step is drawn as an upright stroke from beside the dot before it, so that the line does not tear.
        start = level if abs(level - before) < 2 else before + (1 if level > before else -1)
        for dot in range(min(start, level), max(start, level) + 1):
            row, inside = divmod(4 * height - 1 - dot, 4)
            cells[row][column // 2] |= DOTS[inside][column % 2]
    return ["".join(map(chr, row)) for row in cells]


def _levels(values: Sequence[float], count: int) -> list[int]:
    """Map values to 0..count-1, the lowest to 0 and the highest to count-1; equal values to the middle."""
    low, high = min(values), max(values)
    if high == low:
        return [(count - 1) // 2] * len(values)
    return [min(int((value - low) / (high - low) * count), count - 1) for value in values]
