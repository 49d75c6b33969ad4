"""Whether an answer equals a gold answer: at sight where exact arithmetic tells, and left open where it cannot."""

import re
from collections.abc import Iterator
from fractions import Fraction

from grpo.rewards.answers.compare import EXACT, Tolerance, Undecided, at_sight, same
from grpo.rewards.answers.dates import same_moment, when
from grpo.rewards.answers.meaning import Equal
from grpo.rewards.answers.reader import read
from grpo.rewards.answers.sampling import has_imaginary
from grpo.rewards.answers.spelling import one_spelling
from grpo.rewards.answers.tree import Node, Unreadable
from grpo.rewards.answers.words import COMMON, LAST_OPTION, choice, choices, key, labelled, unstyled, with_its_text

_PLAIN_NUMBER = re.compile(r"-?(?:[1-9]\d{0,2}(?:,\d{3}){1,99}|\d{1,300})(?:\.\d{1,300})?")
_GROUPED = re.compile(r"\d,\d{3}(?!\d)")
_DECIMAL_COMMA = re.compile(r"-?(?:\d+,\d{1,2}|\d+,\d{4,}|0,\d+)")
_DECIMAL_POINT = re.compile(r"-?\d*\.\d+")
_CAPITAL_CONSTANT = re.compile(r"(?<![A-Za-z_])[IE](?![A-Za-z_])")
_ANOTHER_OPTION = re.compile(
    r"(?:or|and|[,/&])\W*[A-J]\b.*|(?=.*\b[A-J]\b)\W*(?:(?:or|and|maybe|perhaps|possibly|either|[A-J])\b\W*)+",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(r"\([A-J]\)[\s:.~]*(?:\\[ ,;:]|\\quad)*\s*(\S.*)")
_LOOKS = re.compile(
    r"\\(?:(?:text)?color(?:box)?\{[^{}]{0,40}\}"
    r"|(?:tiny|small|[lL]arge|LARGE|[hH]uge|normalsize|displaystyle|textstyle)(?![A-Za-z]))"
)
"""Colours and sizes."""

_WORD = re.compile(r"[A-Za-z]{4}")
_EXCEPT = re.compile(r"exc(?:ept|luding)\b(?:\s+for\b)?[\s}]*")
_YES_OR_NO = re.compile(r"(yes|no)\s?[,;]\s?(.{1,200})", re.IGNORECASE | re.DOTALL)
_TAKEN_BACK = re.compile(r"\b(?:yes|no|but|or|maybe|perhaps|unless|if|depends|sometimes|however)\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|never|cannot)\b|n't\b", re.IGNORECASE)
_SYMBOLIC = re.compile(r"[\\^_=<>+*/{}()\[\]|√²]")


def judged(gold: str, answer: str, tolerance: Tolerance = EXACT) -> bool | None:
    """Whether two answers are the same, or None when only long precision or symbolic mathematics can tell.

    >>> judged("1/2", "0.50"), judged("1,000", "100"), judged("x^2+2x+1", "(x+1)^2"), judged("1", "sin(x)^2+cos(x)^2")
    (True, False, True, None)
    """
    gold, answer = trimmed(gold), trimmed(answer)
    if gold == answer:
        return bool(answer)
    if tolerance == EXACT and _PLAIN_NUMBER.fullmatch(gold) and _PLAIN_NUMBER.fullmatch(answer):
        return Fraction(gold.replace(",", "")) == Fraction(answer.replace(",", ""))
    gold, answer = _unlabelled(*_with_points(gold, answer))
    if (verdict := as_choice(gold, answer)) is not None:
        return verdict
    if (day := when(unstyled(gold))) is not None and (other := when(unstyled(answer))) is not None:
        return same_moment(day, other)
    return compared(gold, answer, at_sight(tolerance))


def compared(gold: str, answer: str, equal: Equal) -> bool | None:
    """Compare as mathematics where both can be read, as text where the gold is text; None: not decided."""
    golds, answers = list(_readings(gold)), list(_readings(answer))
    undecided = False
    for one in golds:
        for two in answers:
            try:
                if same(one, two, equal):
                    return True
            except Undecided:
                undecided = True
            except RecursionError:
                return False
    if not undecided and not golds and _bare(gold) == _bare(answer):
        return True
    if undecided or needs_more(gold, golds) or (golds and needs_more(answer, answers)):
        return None
    return _same_text(gold, answer, golds, answers)


def needs_more(text: str, readings: list[Node]) -> bool:
    """Whether the text is mathematics beyond this reader: integrals, sums, limits."""
    return not readings and bool(re.search(r"\\(?:int|sum|prod|lim|partial|iint|oint|frac|sqrt)(?![a-zA-Z])", text))


def is_text(answer: str) -> bool:
    """Whether the answer is words, without mathematical signs."""
    return not _SYMBOLIC.search(unstyled(answer))


def readable(text: str) -> bool:
    """Whether the text can be read as mathematics."""
    return any(True for _ in _readings(trimmed(text)))


def trimmed(text: str) -> str:
    """Without colours and sizes, and white space, emphasis, dollar signs and the full stop around it."""
    text = one_spelling(text)
    text = (_LOOKS.sub(" ", text) if "\\" in text else text).strip().strip("*").strip()
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"), ("`", "`")):
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.rstrip(".").endswith(closing):
            inner = text.rstrip(".")[len(opening) : -len(closing)]
            if opening not in inner:
                text = inner.strip()
    text = text.strip().strip('"').strip()
    return text.removesuffix(".").rstrip() if not text.endswith("..") else text


def _with_points(gold: str, answer: str) -> tuple[str, str]:
    """1,22 beside 1.22 has a decimal comma."""
    if _DECIMAL_COMMA.fullmatch(gold) and _DECIMAL_POINT.fullmatch(answer):
        return gold.replace(",", "."), answer
    if _DECIMAL_COMMA.fullmatch(answer) and _DECIMAL_POINT.fullmatch(gold):
        return gold, answer.replace(",", ".")
    return gold, answer


def _unlabelled(gold: str, answer: str) -> tuple[str, str]:
    """(C) 12 beside 12 has the label of an option, which the other side lacks."""
    first, second = (_LABEL.fullmatch(unstyled(text).strip()) for text in (gold, answer))
    if second and not first and choice(gold) is None and choices(gold) is None:
        return gold, second[1]
    if first and not second and choice(answer) is None:
        return first[1], answer
    return gold, answer


def as_choice(gold: str, answer: str) -> bool | None:
    """Compare letters of options, which may come in any order unless the gold has one; None when the gold is none."""
    expected = labelled(gold)
    if expected is not None and (expected[0].isupper() or "(" in gold) and _is_option(gold):
        given = labelled(answer) or with_its_text(answer)
        if given is not None:
            return _same_option(expected, given)
        return False if choices(answer) else None
    several, given_several = choices(gold), choices(answer)
    if several is None or given_several is None:
        return None
    return set(several) == set(given_several) if several == sorted(several) else several == given_several


def _same_option(gold: tuple[str, str], answer: tuple[str, str]) -> bool | None:
    """Compare letters; where both say more, that must agree as well, or else they may be initials: E. coli."""
    letter, text = answer
    if letter.upper() != gold[0].upper() or (not gold[1] and _ANOTHER_OPTION.fullmatch(text)):
        return False
    first, second = (set(key(part).split()) for part in (gold[1], text))
    return True if first <= second or second <= first or judged(gold[1], text) else None


def _is_option(gold: str) -> bool:
    """A letter by itself or in brackets, up to J: C, (C), \\text{C}, C. 12."""
    letter = choice(gold)
    return letter is not None and letter.upper() <= LAST_OPTION and not has_imaginary(Node("sym", (), letter))


def _readings(text: str) -> Iterator[Node]:
    """The text as mathematics: once, or twice where a comma may group digits or part them."""
    ways = [(_in_signs(text) or text, True)]
    if _GROUPED.search(text) and not re.search(r",0\d", text):
        ways.append((text, False))
    if "\\" not in text and len(text) > 1 and _CAPITAL_CONSTANT.search(text) and re.search(r"[*+(\d]", text):
        ways.append((_CAPITAL_CONSTANT.sub(lambda found: found[0].lower(), text), True))  # sympy's I and E
    for way, grouping in ways:
        try:
            yield read(way, grouping)
        except (Unreadable, RecursionError):
            continue


def _in_signs(text: str) -> str | None:
    """What has a sign: no solution, all real numbers, all real numbers except 1."""
    if not _WORD.search(text):
        return None
    if (common := COMMON.get(key(text))) is not None:
        return common
    match = _EXCEPT.search(text)
    whole = COMMON.get(key(text[: match.start()])) if match else None
    return rf"{whole}\setminus\{{{text[match.end() :]}\}}" if match and whole else None


def _same_text(gold: str, answer: str, golds: list[Node], answers: list[Node]) -> bool:
    expected, given = key(gold), key(answer)
    if golds and answers:
        return False
    if not expected or not given or not is_text(gold) or not is_text(answer):
        return _bare(gold) == _bare(answer)
    return expected in (given, _yes_or_no(answer)) or _same_names(gold, answer)


def _yes_or_no(answer: str) -> str | None:
    """The yes of "Yes, she can", unless the rest takes it back: "Yes, but no", "Yes, she cannot"."""
    match = _YES_OR_NO.fullmatch(unstyled(answer).strip())
    if match is None or _TAKEN_BACK.search(match[2]):
        return None
    word = match[1].casefold()
    return None if word == "yes" and _DENIED.search(match[2]) else word


def _same_names(gold: str, answer: str) -> bool:
    """Lists of names in any order: red, blue."""
    first, second = (sorted(map(key, re.split(r",|;|&|\band\b", unstyled(text)))) for text in (gold, answer))
    return len(first) > 1 and first == second


def _bare(text: str) -> str:
    """Unreadable mathematics without spaces, for a comparison by its letters."""
    return re.sub(r"\\(?:left|right|[,;:! ]|d(?=frac)|t(?=frac))|\s|[{}$]", "", text)
