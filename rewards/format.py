"""R1's format: reasoning between `<think>` tags, then the answer."""

import unicodedata
from typing import Literal

THINK = "<think>", "</think>"
ANSWER = "<answer>", "</answer>"

_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Hangul fillers and the empty Braille pattern: letters and symbols to Unicode, nothing to the eye."""


def format_reward(
    completion: str, *, mode: Literal["think_answer", "think_text"] = "think_answer", graded: bool = False
) -> float:
    """1 when the completion has R1's form, else 0. Tags are literal: case counts, and a tag in code or quotes is a tag.

    `graded` gives a form that is not yet right partial credit, below 1: for small base models. It is a tenth for the
    reasoning coming first, and two tenths for every tag that stands exactly once and after the one before it.

    The stripped text starts with `<think>`, has one `<think>` and one `</think>`, reasoning between them that is not
    blank, and no answer tag in it. The rest is one `<answer>` that is not blank (`think_answer`), or text that is not
    blank with at most one such `<answer>` in it (`think_text`).
    """
    whole = _form(completion.strip(), mode)
    return float(whole) if whole or not graded else partial(completion.strip(), mode)


def partial(text: str, mode: Literal["think_answer", "think_text"]) -> float:
    """The credit for what is there of the form: at most 0.9.

    >>> partial("<think>2+2</think> 4", "think_answer"), partial("4", "think_answer")
    (0.5, 0.0)
    """
    tags = THINK + ANSWER if mode == "think_answer" else THINK
    credit, position = float(text.startswith(THINK[0])), 0
    for tag in tags:
        found = text.find(tag, position)
        if found >= 0 and text.count(tag) == 1:
            credit += 8 / len(tags)
            position = found
    return round(credit / 10, 6)


def _form(text: str, mode: str) -> bool:
    if not text.startswith(THINK[0]) or not _one_pair(text, THINK):
        return False
    reasoning, _, rest = text.removeprefix(THINK[0]).partition(THINK[1])
    if is_blank(reasoning) or any(tag in reasoning for tag in ANSWER):
        return False
    return _is_one_answer(rest.strip()) if mode == "think_answer" else _is_text(rest)


def is_blank(text: str) -> bool:
    """Whether there is nothing to see: spaces, control, format and zero-width characters, lone marks and fillers."""
    return all(unicodedata.category(char)[0] in "CZM" or char in _INVISIBLE_LETTERS for char in text)


def _one_pair(text: str, pair: tuple[str, str]) -> bool:
    opening, closing = pair
    return text.count(opening) == text.count(closing) == 1 and text.index(opening) < text.index(closing)


def _is_one_answer(rest: str) -> bool:
    return rest.startswith(ANSWER[0]) and rest.endswith(ANSWER[1]) and _is_balanced(rest)


def _is_text(rest: str) -> bool:
    tagged = any(tag in rest for tag in ANSWER)
    return not is_blank(rest) and (not tagged or _is_balanced(rest))


def _is_balanced(rest: str) -> bool:
    """One `<answer>` pair with something in it."""
    return _one_pair(rest, ANSWER) and not is_blank(rest.partition(ANSWER[0])[2].partition(ANSWER[1])[0])
