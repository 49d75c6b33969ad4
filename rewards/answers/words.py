"""Answers that are text: choices, names, yes and no, numbers in words."""

import re
from collections.abc import Sequence

from grpo.rewards.answers.spelling import one_spelling

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}

_STYLES = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|cal)|mbox|emph|operatorname|boldsymbol|bm|boxed|fbox)\b\s*"
)
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?[({\[]*\s*([A-Za-z])\s*[)}\].:]*(?:(?<=[).:\]}])\s*(\S.*)|\s*)",
    re.DOTALL | re.I,
)
_WITH_TEXT = re.compile(
    r"[({\[]?([A-J])[)}\]]?(?:\s?,\s?|\s[-—]{1,3}\s|\s(?=\())\(?((?=[^\W\d_]{2}|\$?\d[\d.,]{0,20}%?\)).{1,200})",
    re.DOTALL,
)
_UNSURE = re.compile(r"\b(?:[A-J]|not|never|wrong|incorrect|maybe|perhaps|possibly|either|both|neither)\b|\?")
_CHOICES = re.compile(r"[A-Z](?:\s*(?:[,;]?\s*and|,|;|&|\s)?\s*[A-Z]){1,9}")
LAST_OPTION = "J"
MAX_LABELLED = 400
"""Characters of an option with its text."""

_ARTICLES = re.compile(r"\b(?:the|a|an)\b")
_SYNONYMS = {
    "no solutions": "no solution", "none": "no solution", "no real solution": "no solution", "empty set": "no solution",
    "no real solutions": "no solution", "there is no solution": "no solution", "there are no solutions": "no solution",
    "no solution exists": "no solution", "no such number exists": "no solution", "does not exist": "undefined",
    "dne": "undefined", "not defined": "undefined", "do not exist": "undefined", "not exist": "undefined",
    "infinitely many solutions": "infinitely many", "infinite": "infinitely many", "y": "yes", "n": "no",
    "infinitely many": "infinitely many", "infinite solutions": "infinitely many", "t": "true", "f": "false",
    "correct": "true", "incorrect": "false", "diverge": "diverges", "converge": "converges", "divergent": "diverges",
    "convergent": "converges",
}  # fmt: skip
COMMON = {
    "no solution": r"\emptyset", "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}",
    "real numbers": r"\mathbb{R}", "all real x": r"\mathbb{R}", "every real number": r"\mathbb{R}",
    "any real number": r"\mathbb{R}", "set of all real numbers": r"\mathbb{R}", "set of real numbers": r"\mathbb{R}",
}  # fmt: skip
"""Words that say what mathematics has a sign for."""


def number_in_words(words: Sequence[str]) -> int | None:
    """The number that words say.

    >>> number_in_words(["twenty", "-", "five"]), number_in_words(["two", "hundred", "and", "one"])
    (25, 201)
    """
    total, current, seen = 0, 0, False
    for word in words:
        if word in _SMALL:
            if (seen and current % 100 not in (0, *range(20, 100, 10))) or (current % 10 and seen):
                return None
            current += _SMALL[word]
        elif word in _LARGE and seen:
            if word == "hundred":
                current *= 100
            else:
                total, current = total + current * _LARGE[word], 0
        elif word not in ("-", "and") or not seen:
            return None
        seen = True
    return total + current if seen and words[-1] not in ("-", "and") else None


def choice(text: str) -> str | None:
    r"""The letter of an option: `(C)`, `\text{C}`, `C.`, `C) a triangle`; None when it is none.

    >>> choice(r"\textbf{(C)}"), choice("Canada"), choice("B. 12")
    ('C', None, 'B')
    """
    found = labelled(text)
    return found[0] if found else None


def labelled(text: str) -> tuple[str, str] | None:
    r"""The letter of an option and what follows it: `C) a triangle` is C and "a triangle"."""
    if len(text) > MAX_LABELLED:
        return None
    bare = _STYLES.sub("", text.strip(" $*")).strip(" $*.{}\\")
    bare = bare.replace("\\ ", " ").strip()
    if bare.startswith("(") and not bare.endswith(")") and ")" not in bare:
        bare += ")"
    match = _CHOICE.fullmatch(bare)
    return (match[1], match[2] or "") if match else None


def with_its_text(text: str) -> tuple[str, str] | None:
    """An option and its text without a stop between them: A (Paris), A, Paris, A - Paris; no second letter after it."""
    match = _WITH_TEXT.fullmatch(" ".join(unstyled(text).split())) if len(text) <= MAX_LABELLED else None
    if match is None or _UNSURE.search(match[2]) or choices(match[2]):
        return None
    return match[1], match[2]


def choices(text: str) -> list[str] | None:
    """The letters of several options, in their order: ABD, or A, B and D."""
    bare = re.sub(r"[()\[\]]", " ", _STYLES.sub("", text)).strip(" $*.{}")
    if not _CHOICES.fullmatch(bare):
        return None
    letters = re.findall(r"[A-Z]", bare)
    return letters if len(set(letters)) == len(letters) and max(letters) <= LAST_OPTION else None


def key(text: str) -> str:
    r"""What a text answer comes down to: its words in lower case, without articles, LaTeX and punctuation.

    >>> key(r"\text{The Eiffel Tower.}")
    'eiffel tower'
    """
    bare = _STYLES.sub(" ", one_spelling(text))
    bare = re.sub(r"\\[,;:! ]|\\quad|~", " ", bare).replace("\\", " ").replace("'", "")
    bare = _ARTICLES.sub(" ", " ".join(re.findall(r"\w+|[-+.](?=\d)", bare.casefold())))
    bare = " ".join(bare.split()).replace("- ", "-").replace("+ ", "+").replace(" . ", ".").replace(". ", ".")
    return _SYNONYMS.get(bare, bare)


def unstyled(text: str) -> str:
    r"""The text without the commands that style it: \text{ and its brace."""
    bare = _STYLES.sub("", text)
    return re.sub(r"[{}]|\\[ ,;:!]|\\quad", " ", bare) if bare != text else text


def is_prose(text: str) -> bool:
    """Whether there are words in it, in whatever script."""
    return bool(re.search(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text)))
