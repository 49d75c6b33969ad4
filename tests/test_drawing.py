"""Curves by hand, and text that cannot steer a terminal."""

import math
from itertools import pairwise

import pytest

from grpo.drawing import curve, resample, sparkline, visible


def test_control_characters_are_shown_and_text_is_left_alone():
    assert visible("[red]x[/red]\x1b[31m") == "[red]x[/red]␛[31m"
    assert visible("a\r\b\x00\x7f\x9b\u202e\u200b\u2028\ud800") == ("a␍␈␀\\x7f\\x9b\\u202e\\u200b\\u2028\\ud800")
    assert visible("3 × 4 = 12\n\t中文 é 🙂") == "3 × 4 = 12\n    中文 é 🙂"


def test_sparkline_of_known_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 0], 8) == "█▁"
    assert sparkline([0, 0, 1, 1], 2) == "▁█"
    assert sparkline([5, 5, math.nan], 8) == "▄▄"
    assert sparkline([math.nan], 8) == ""


def test_resampling_takes_means_or_straight_lines():
    assert resample([1, 3, 5, 7], 2) == [2, 6]
    assert resample([1, 2, 3], 2) == [1, 2.5]
    assert resample([0, 2], 5) == [0, 0.5, 1, 1.5, 2]
    assert resample([4], 3) == [4, 4, 4]


def test_curve_of_known_values():
    # One character is 2 by 4 dots: rising from the lowest left dot, the stroke climbs the right column.
    assert curve([0, 1], 1, 1) == [chr(0x2800 | 0x40 | 0x08 | 0x10 | 0x20)]
    assert curve([0, 1, 2, 3], 2, 1) == ["⡠⠊"]
    assert curve([1, 1], 2, 1) == ["⠤⠤"]
    assert curve([], 2, 2) == ["  ", "  "]


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 1000])
def test_a_curve_fills_its_width_and_never_tears(count):
    rows = curve([math.sin(9 * index / count) for index in range(count)], 20, 5)
    assert [len(row) for row in rows] == [20] * 5
    heights = []
    for column in range(40):
        bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))[column % 2]
        dots = [
            4 * number + inside
            for number in range(5)
            for inside in range(4)
            if ord(rows[number][column // 2]) & bits[inside]
        ]
        assert dots == list(range(dots[0], dots[-1] + 1))
        heights.append((dots[0], dots[-1]))
    assert all(a[0] <= b[1] + 1 and b[0] <= a[1] + 1 for a, b in pairwise(heights))
