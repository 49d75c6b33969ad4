"""Exact comparison of answers: numbers as fractions, words as text. What it cannot decide is left to sympy."""

import re
import unicodedata
from fractions import Fraction

MAX_NUMBER_CHARS = 200

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,2}})?"
_FRAC = rf"\\frac\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}}"
_RATIO = re.compile(rf"([+-]?)({_DECIMAL})(?:\s*/\s*([+-]?{_DECIMAL}))?")
_MIXED = re.compile(rf"([+-]?)({_INTEGER})\s+({_INTEGER})\s*/\s*({_INTEGER})")
_LATEX_MIXED = re.compile(rf"([+-]?)({_INTEGER})?\s*{_FRAC}")
_WITH_UNIT = re.compile(rf"([+-]?{_DECIMAL})\s*([A-Za-z][A-Za-z ]*)")
_NOT_A_UNIT = re.compile(
    r"\b(?:or|and|to|not|if|but|half|hundred|thousand|million|billion|trillion|dozen|percent|pi|sqrt|times|plus|minus"
    r"|over|by|divided|squared|cubed|factorial|point)\b",
    re.IGNORECASE,
)
"""Words after a number that change its value, or offer another."""

_FUNCTION = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|max|min|gcd|lcm|[pbv]?matrix|cases|array", re.IGNORECASE
)
_CHOICE = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?\s*\(?([A-Za-z])[).]?\s*\}?")
_DIGITS_APART = re.compile(r"\d\s+[\d.]")


def same(gold: str, answer: str) -> bool | None:
    """Whether two answers are the same, or None when only symbolic mathematics can tell.

    >>> same("1/2", "0.50"), same("1,000", "100"), same("x+1", "1+x")
    (True, False, None)
    """
    gold, answer = plain(gold), plain(answer)
    if gold == answer:
        return True
    if is_words(gold):
        return _key(gold) == _key(answer)
    if (choice := _CHOICE.fullmatch(gold)) and (chosen := _CHOICE.fullmatch(answer)):
        return choice[1] == chosen[1]
    gold_value, answer_value = number(gold), number(answer)
    if gold_value is None:
        return False if _DIGITS_APART.search(answer) else None
    if answer_value is None:
        answer_value = _without_unit(answer)
    if answer_value is not None:
        return gold_value == answer_value
    return False if _DIGITS_APART.search(answer) or _denies(answer, gold_value) else None


def plain(text: str) -> str:
    """One spelling for what looks alike: full-width digits, minus signs, LaTeX spacing, dollar signs, a full stop."""
    if not text.isascii():
        # superscripts and vulgar fractions (category No) keep their meaning only as they are
        text = "".join(c if unicodedata.category(c) == "No" else unicodedata.normalize("NFKC", c) for c in text)
    text = text.replace("−", "-").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\%", "%")
    text = re.sub(r"(?<=\d)(?:\{,\}|\\,|\\!)+(?=\d)", ",", text.replace("\\$", ""))
    text = re.sub(r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[()\[\]]", "", text)
    text = " ".join(text.split()).strip("$ ")
    return text.removesuffix(".").strip("$ ")


def number(text: str) -> Fraction | None:
    """The value of an integer, decimal, fraction or mixed number, exactly, or None when the text is none of these."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if match := _RATIO.fullmatch(text):
        return _quotient(match[1], "0", match[2], match[3] or "1")
    if match := _MIXED.fullmatch(text) or _LATEX_MIXED.fullmatch(text):
        return _quotient(match[1], match[2] or "0", match[3], match[4])
    return None


def is_words(text: str) -> bool:
    """Whether an answer is text, such as a name or a choice: letters without digits, and no function or variable."""
    content = re.sub(r"\\[a-zA-Z]+", " ", text)
    if re.search(r"\d", content) or re.search(r"[=<>^_+*/|]", content):
        return False
    words = re.findall(r"[^\W\d_]{3,}|\bno\b|[\u3040-\u9fff]", content, re.IGNORECASE)
    return any(not _FUNCTION.fullmatch(word) for word in words)


def _quotient(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    denominator = Fraction(bottom.replace(",", ""))
    if denominator == 0:
        return None
    value = Fraction(whole.replace(",", "")) + Fraction(top.replace(",", "")) / denominator
    return -value if sign == "-" else value


def _without_unit(answer: str) -> Fraction | None:
    match = _WITH_UNIT.fullmatch(re.sub(r"\\(?:text|mathrm)\s*\{([A-Za-z ]*)\}", r" \1", answer))
    if match is None or max(map(len, match[2].split())) < 3 or _NOT_A_UNIT.search(match[2]):
        return None
    return number(match[1])


def _denies(answer: str, gold: Fraction) -> bool:
    """Whether an equation in the answer states another number too: 20 = 18 is no answer to 18."""
    sides = [number(side.strip()) for side in answer.split("=")]
    return any(side is not None and side != gold for side in sides)


def _key(text: str) -> str:
    """Letters and digits of a text answer: `\\text{(C)}` is C."""
    bare = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\b", " ", text)
    return " ".join(re.findall(r"\w+", bare.casefold()))
