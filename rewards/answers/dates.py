"""Dates and times of day, in the ways that people write them."""

import re

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = (
    {name: n for n, name in enumerate(_MONTHS, 1)} | {name[:3]: n for n, name in enumerate(_MONTHS, 1)} | {"sept": 9}
)
_NAME = rf"({'|'.join(sorted(_MONTH, key=len, reverse=True))})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
_DATE = [
    (re.compile(rf"{_WEEKDAY}{_NAME}\s+{_DAY}(?:,?\s+(\d{{4}}))?"), (3, 1, 2)),
    (re.compile(rf"{_WEEKDAY}{_DAY}\s+(?:of\s+)?{_NAME}(?:,?\s+(\d{{4}}))?"), (3, 2, 1)),
    (re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"), (1, 2, 3)),
    (re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})"), (3, 1, 2)),
    (re.compile(rf"{_NAME}\s+(\d{{4}})"), (2, 1, 0)),
]
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s*(?:([ap])\.?\s?m\.?)?(?:\s*(?:o'clock|sharp))?")

When = tuple[str, int, int, int]


def when(text: str) -> When | None:
    """A date (year, month, day) or a time of day; 0 where nothing is said. The month comes first in 7/4/1776.

    >>> when("July 4th, 1776") == when("4 July 1776") == when("1776-07-04"), when("3 p.m."), when("15:00")
    (True, ('time', 15, 0, 0), ('clock', 15, 0, 0))
    """
    text = " ".join(text.casefold().strip(" .$").split())
    if len(text) > 40 or not re.search(r"\d", text):
        return None
    for pattern, (year, month, day) in _DATE:
        if match := pattern.fullmatch(text):
            parts = ["", *match.groups()]
            number = parts[month]
            return (
                "date",
                int(parts[year] or 0),
                _MONTH.get(number, 0) or int(number),
                int(parts[day] or 0) if day else 0,
            )
    match = _TIME.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        return None
    hour = int(match[1]) % 12 + 12 * (match[4] == "p") if match[4] else int(match[1])
    return "time" if match[4] else "clock", hour, int(match[2] or 0), int(match[3] or 0)


def same_moment(gold: When, answer: When) -> bool:
    """Whether two say the same: a year that only one of them names, or its half of the day, may be left out."""
    if gold[0] == answer[0] == "date" and 0 in (gold[1], answer[1]):
        return gold[2:] == answer[2:]
    if {gold[0], answer[0]} == {"time", "clock"}:
        open_half = (gold if gold[0] == "clock" else answer)[1] <= 12
        hours = (gold[1] % 12, answer[1] % 12) if open_half else (gold[1], answer[1])
        return hours[0] == hours[1] and gold[2:] == answer[2:]
    return gold == answer
