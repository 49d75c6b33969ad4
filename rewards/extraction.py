"""Finds the final answer in a completion. Every scan is linear in the text, whatever a model writes.

A completion that ends on several different answers has not answered: they are joined by commas, so that they equal a
gold answer of as many values and nothing else.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from grpo.rewards.answers.dates import when
from grpo.rewards.answers.judge import judged, readable
from grpo.rewards.answers.words import choice

Rule = Literal[
    "boxed", "answer_tag", "hashes", "answer_is", "whole_text", "last_choice", "last_math", "last_expression",
    "last_number",
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The text of a final answer and the rule that found it."""

    text: str
    rule: Rule


@dataclass(frozen=True)
class _Span:
    """A piece of the text with what stands in it."""

    start: int
    end: int
    content: str


MAX_SENTENCE = 2000
MAX_MARKS = 50
"""Marked answers that are looked at, from the end: a flood of them is no answer, and must not take for ever."""

MAX_RESTATED = 4
"""Answers that are looked at for being the same: of more, only those that are the same letters."""

_BRACES = re.compile(r"(\\f?boxed\s*\{)|\\.|([{}])", re.DOTALL)
_SHORT_BOX = re.compile(r"\\boxed\s*(\d+|[A-Za-z])")
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|im_start\|>\s*user)\|?>?|</s>|<end_of_turn>")
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|<s>|<pad>")
_ANSWER_IS = re.compile(
    r"""\b(?:answers?|(?:correct|right|best)\s+(?:option|choice))
        (?:\s{1,9}(?:to|for|of|in)(?:\s{1,9}(?:the|this|part|your|question|problem)){0,6}\s{0,9}\(?\w{0,12}\)?)?
        (?:["'*_)\s]{0,9}(?:is|are|was|equals|should\s+be|would\s+be|must\s+be|will\s+be)\b[\s*]{0,9}:?|[\s*_]{0,9}(?::|=(?!=)))""",
    re.IGNORECASE | re.VERBOSE,
)
_IS_THE_ANSWER = re.compile(
    r"(?<![^\s(])([-$\w.,/\\{}^()%*+]{1,80})\s+is\s+(?:the|our|my)\s+(?:final\s+|correct\s+)?answer\b"
)
_HEADING = re.compile(r"^[\W_]{0,6}(?:the\s+)?(?:final\s+|correct\s+)?answer[\W_]{0,6}$", re.IGNORECASE | re.MULTILINE)
_MATH = re.compile(
    r"\$\$(?P<display>[^$]{1,1500})\$\$|\$(?P<inline>[^$]{1,1500})\$"
    r"|\\\((?P<round>.{1,1500}?)\\\)|\\\[(?P<square>.{1,1500}?)\\\]",
    re.DOTALL,
)
_END_OF_SENTENCE = re.compile(
    r"(?P<math>\$\$[^$]{0,1500}\$\$|\$[^$\n]{0,1500}\$|\\\(.{0,1500}?\\\)|\\\[.{0,1500}?\\\])|[.!?](?<!\bRs.)(?=\s|$)|\n|</",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.:])\d{1,3}(?::\d{1,3})+(?![\d:])(?:\s?[AaPp]\.?[Mm]\b)?"
    r"|(?<![\w.])[-+−]?[$£€]?\d+\s+\d+/\d+"
    r"|(?<![\w.])(?:(?:negative|minus)\s+(?=\d)|[-+−])?[$£€]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:/\d+)?%?"
    r"|(?<![A-Za-z\d])\d+(?:\.\d+)?(?![A-Za-z]\d|[A-Z])"
)
_RESULT = re.compile(r"=\s*([$£€]?-?\d[\d,]*(?:\.\d+)?)(?=\s+[A-Za-z])[^=+*/<>]*$")
_BETWEEN_NUMBERS = re.compile(r"[\s*$]*(?:,|or|and|,\s*or|,\s*and|or\s+maybe|or\s+possibly)[\s*$]*", re.IGNORECASE)
_BECAUSE = re.compile(r",?\s+because\b.*", re.IGNORECASE | re.DOTALL)
_REFUSED = re.compile(r"^[^.\n]{0,40}\b(?:is|are)\s+(?:not|wrong|incorrect|false)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"[.!?]\s|\n")
_REASON = re.compile(r",?\s+(?:because|since|so that|which|as there)\b.*", re.IGNORECASE | re.DOTALL)
_DENIED = re.compile(r",?\s*\(?\b(?:not|rather than|instead of)\s+\S+?\)?$", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not|never|no|neither|nor|cannot|wrong|incorrect|false|impossible|unlikely|less|more|fewer|greater|least|most"
    r"|between|under|above|below|exceeds?|except|excluding|negative|minus|plus|half|squared|cubed)\b|n't\b",
    re.IGNORECASE,
)
"""What keeps the only number of a sentence from being its answer."""
_OPENING_WORDS = re.compile(
    r"(?:(?:indeed|therefore|thus|just|simply|clearly|given by|equal to|that|as follows|now|option|choice)\b[:,]?\s*)+",
    re.IGNORECASE,
)
_LAST_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+\**\(?|\(|\*\*\(?)([A-J])(?:\)|\*\*|\.|\b)[\s.*)$]*$", re.IGNORECASE
)
_CORRECT_CHOICE = re.compile(
    r"(?:option|choice)\s+\**\(?([A-J])\)?\**\s+is\s+(?:the\s+)?(?:correct|right|best)\b", re.IGNORECASE
)
_LEADING = re.compile(
    r"(?:\b(?:is|are|equals|equal\s+to|get|gives?|obtain|be|yields?|round(?:s|ed)?\s+(?:up\s+|down\s+)?to)\b|=|:(?!\d))\s*",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"(?:correct|right|reasonable|verified|valid|consistent|confirmed|in (?:the|its|simplest)\b)[^\d$]*$", re.IGNORECASE
)
"""What is said of an answer after "the answer is"."""

_STATING = frozenset({"is", "are", "the", "it", "then", "so"})
"""Words between what is asked for and its value, as in "x is 5": no second answer."""

_NAMED_BEFORE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*(?=\W{0,4}$)")
_HEDGES = frozenset(
    [
        "and",
        "or",
        "also",
        "alternatively",
        "either",
        "maybe",
        "perhaps",
        "possibly",
        "else",
        "another",
        "answer",
        "answers",
        "the",
        "final",
        "is",
        "are",
        "it",
        "could",
        "be",
        "might",
        "may",
        "as",
        "well",
        "both",
        "with",
        "respectively",
        "text",
        "quad",
        "qquad",
        "so",
        "possible",
        "other",
        "if",
        "not",
        "then",
        "too",
    ]
)


def final_part(text: str) -> str:
    """What follows the last `</think>`. Without one it is the whole text, or nothing when a thought never ended."""
    _, tag, tail = text.rpartition("</think>")
    if tag:
        return tail
    return "" if "<think>" in text else text


def mathematical_answer(text: str) -> Answer | None:
    """The final answer: by the first of the rules, in the order of `Rule`, that finds one in the final part.

    >>> mathematical_answer("<think>3?</think> The answer is 72.")
    Answer(text='72', rule='answer_is')
    """
    final = _SPECIAL.sub(" ", _END_OF_TURN.split(final_part(text), maxsplit=1)[0]).strip()
    for rule in (_marked, _hashes, _spoken, _whole, _last_choice, _last_math, _last_expression, _last_number):
        if (answer := rule(final)) is not None:
            return answer
    return None


def free_answer(text: str) -> Answer | None:
    """The last `\\boxed{}`, or else `<answer>`, or else the whole final part: for answers that are any text."""
    final = final_part(text)
    whole = final.strip()
    return _marked(final, trim=False) or (Answer(whole, "whole_text") if whole else None)


def boxed_answer(text: str) -> str | None:
    """The content of the last `\\boxed{}` whose braces balance, with those before it that it adds to, or None."""
    found = [box for box in _boxes(text) if box.content]
    return _joined(_together(text, found)) if found else None


# --- what is marked as the answer -------------------------------------------------------------------------------------


def _marked(final: str, trim: bool = True) -> Answer | None:
    boxes = [box for box in _boxes(final) if box.content.strip()][-MAX_MARKS:]
    tags = _answer_tags(final)[-MAX_MARKS:]
    inside = [box for box in boxes if any(tag.start <= box.start < tag.end for tag in tags)]
    if inside or (boxes and not tags):
        return _boxed(final, inside or boxes, trim)
    if not tags:
        return None
    contents = [_spoken_or_all(tag.content) if trim else tag.content for tag in tags]
    return Answer(_joined(contents + [box.content for box in boxes if trim]) if trim else contents[-1], "answer_tag")


def _boxes(text: str) -> list[_Span]:
    """The innermost contents of all `\\boxed{}` whose braces balance, in order."""
    starts: list[tuple[int, int]] = []
    found: list[_Span] = []
    for match in _BRACES.finditer(text):
        if match[1]:
            starts.append((match.start(), match.end()))
        elif match[2] == "{":
            starts.append((-1, -1))
        elif match[2] == "}" and starts:
            start, content = starts.pop()
            if start >= 0 and not (found and found[-1].start > start):
                found.append(_Span(start, match.end(), text[content : match.start()].strip()))
    if not found:
        found = [_Span(match.start(), match.end(), match[1]) for match in _SHORT_BOX.finditer(text)]
    return found


def _together(final: str, boxes: Sequence[_Span]) -> list[str]:
    """The contents of the last box and of those before it that it only adds to: \\boxed{2} or \\boxed{3}."""
    contents = [boxes[-1].content]
    for after, before in pairwise(reversed(boxes)):
        if not _adds(final[before.end : after.start]):
            break
        contents.append(before.content)
    return contents[::-1]


def _adds(between: str) -> bool:
    """Whether the text between two answers says nothing but "or", "and", "alternatively", "the answer is"."""
    if len(between) > 120:
        return False
    between = _NAMED_BEFORE.sub("", between)
    words = re.findall(r"[^\W\d_]+", between.casefold())
    if {"is", "are"}.intersection(words) and _STATING.issuperset(words):
        return False
    return all(word in _HEDGES for word in words) and not re.search(r"[\d=<>+]", between)


def _boxed(final: str, boxes: Sequence[_Span], trim: bool) -> Answer:
    """The last box, unless a "final answer" follows it; another answer that is spoken after it counts beside it."""
    contents = _together(final, boxes)
    rest = final[boxes[-1].end :]
    spoken = _spoken(rest) if trim else None
    if spoken is None or not readable(spoken.text):
        return Answer(_joined(contents), "boxed")
    if re.search(r"final answer", rest, re.IGNORECASE):
        return spoken
    return Answer(_joined([*contents, spoken.text]), "boxed")


def _answer_tags(text: str) -> list[_Span]:
    """What `<answer>` tags enclose, in order; blank ones left out."""
    found, position = [], 0
    while (start := text.find("<answer>", position)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        start = text.rfind("<answer>", start, end)
        content = text[start + len("<answer>") : end].strip()
        if content:
            found.append(_Span(start, end, content))
        position = end
    return found


def _joined(contents: Sequence[str]) -> str:
    """The different ones: what is said again in other words is the same answer."""
    kept = list(dict.fromkeys(content.strip() for content in contents))
    if len(kept) <= MAX_RESTATED:
        kept = [text for place, text in enumerate(kept) if not any(judged(before, text) for before in kept[:place])]
    return ", ".join(kept)


def _hashes(final: str) -> Answer | None:
    """GSM8K's `#### 72`, unless it is a heading: words, with more behind it."""
    _, mark, rest = final.rpartition("\n####") if not final.startswith("####") else ("", "####", final.lstrip("#"))
    line, _, behind = rest.lstrip("# ").partition("\n")
    heading = behind.strip() and not readable(line) and choice(line) is None
    return Answer(line.strip(), "hashes") if mark and line.strip() and not heading else None


# --- what is said to be the answer ------------------------------------------------------------------------------------


def _spoken(text: str) -> Answer | None:
    """What follows the last "answer is", with answers right before it that it only adds to."""
    found = [
        _Span(match.start(), match.end() + len(sentence), sentence)
        for match in (*_last(_ANSWER_IS.finditer(text)), *_last(_HEADING.finditer(text)))
        if (sentence := _sentence(text[match.end() : match.end() + MAX_SENTENCE]))
        and not _NO_ANSWER.match(sentence)
        and not _opens(text, match, sentence)
    ]
    found += [_Span(match.start(), match.end(), match[1]) for match in _last(_IS_THE_ANSWER.finditer(text))]
    found.sort(key=lambda span: span.start)
    following = [*found[1:], _Span(len(text), len(text), "")]
    found = [one for one, after in zip(found, following, strict=False) if one.end <= after.start]
    return Answer(_joined(_together(text, found)), "answer_is") if found else None


def _opens(text: str, match: re.Match[str], sentence: str) -> bool:
    """Whether "Answer:" is a heading over a solution of several sentences, of which the first is no answer."""
    if text[: match.start()].strip(" \t\n*#_>"):
        return False
    rest = text[match.end() :].strip(" \t\n*:_$")
    behind = re.search(r"(?:[.!?]\s|\n)(.*)", rest, re.DOTALL)
    return not rest.startswith(sentence.strip(" $*")) and behind is not None and bool(re.search(r"\d", behind[1]))


def _last(matches: Iterator[re.Match[str]]) -> deque[re.Match[str]]:
    return deque(matches, MAX_MARKS)


def _spoken_or_all(content: str) -> str:
    spoken = _spoken(content)
    if spoken:
        return spoken.text
    return content if readable(content) or choice(content) else _refined(content)


def _sentence(rest: str) -> str:
    """The first sentence, without what introduces it, gives reasons, or denies another answer."""
    rest = rest.lstrip(" \t\n*:_")
    for match in _END_OF_SENTENCE.finditer(rest):
        if not match["math"]:
            if match[0] == "?":
                return ""  # a question
            rest = rest[: match.start()]
            break
    rest = _OPENING_WORDS.sub("", rest.strip(" *_"), count=1) if _OPENING_WORDS.match(rest.strip(" *_")) else rest
    rest = _REASON.sub("", rest.strip(" *_")).strip(" *_,;")
    return _refined(_DENIED.sub("", rest).strip(" *_,;") or rest)


def _refined(sentence: str) -> str:
    """Of prose that cannot be read as a whole: its only formula, or its only number."""
    if len(sentence) > 400 or readable(sentence) or choice(sentence):
        return sentence
    if (stated := _stated(sentence)) is not None:
        return stated
    if _DENIAL.search(sentence):
        return sentence
    formulas = {span.content for span in _formulas(sentence)}
    if len(formulas) == 1:
        return formulas.pop()
    numbers = {match[0].strip(",") for match in _NUMBER.finditer(sentence)}
    return numbers.pop() if len(numbers) == 1 and not formulas else sentence


# --- what stands last -------------------------------------------------------------------------------------------------


def _whole(final: str) -> Answer | None:
    """A text that is nothing but an answer."""
    if not final or len(final) > 300 or re.search(r"\n|boxed|</?answer>|</?think>", final):
        return None
    bare = (len(final.split()) <= 4 and not re.search(r"\d", final)) or when(final) is not None
    return Answer(final, "whole_text") if bare or readable(final) or (len(final) < 60 and choice(final)) else None


def _last_choice(final: str) -> Answer | None:
    match = _LAST_CHOICE.search(final[-60:])
    found = [match[1]] if match else _CORRECT_CHOICE.findall(final[-200:])
    letters = sorted({letter for letter in found if letter.isupper()})
    return Answer(", ".join(letters), "last_choice") if letters else None


def _formulas(text: str) -> Iterator[_Span]:
    for match in _MATH.finditer(text):
        content = next(group for group in match.groups() if group)
        yield _Span(
            match.start(),
            match.end(),
            content.strip() if content.rstrip().endswith("..") else content.strip().rstrip(".,;"),
        )


def _last_math(final: str) -> Answer | None:
    """The last formula, unless a number follows it."""
    start = max(len(final) - 6000, 0)
    formulas = [span for span in _formulas(final[start:]) if span.content]
    if not formulas or _NUMBER.search(final[start + formulas[-1].end :]):
        return None
    contents = _together(final[start:], formulas)
    text = _joined(contents)
    return Answer(text, "last_math") if readable(text) or choice(text) else None


def _last_expression(final: str) -> Answer | None:
    """What follows the last "is", "equals", "=" of the last sentence, when it can be read up to its end."""
    stated = _stated(_SENTENCES.split(_without_reason(final[-400:].rstrip(" .!?*\n")))[-1])
    return Answer(stated, "last_expression") if stated else None


def _without_reason(text: str) -> str:
    """The text without the "because ..." of its last sentence, where a number is left in that."""
    last = _SENTENCES.split(text.rstrip(" .!?*\n"))[-1]
    shorter = _BECAUSE.sub("", last)
    return text[: text.rindex(last)] + shorter if shorter != last and _NUMBER.search(shorter) else text


def _stated(sentence: str) -> str | None:
    """What follows the last "is", "equals", "=" of a sentence, if it can be read."""
    starts = [match.end() for match in _LEADING.finditer(sentence)]
    text = sentence[starts[-1] :].strip(" *") if starts else ""
    if len(text) == 1 and text.isalpha() and len(starts) > 1:
        text = sentence[starts[-2] :].strip(" *")  # 20 = A
    if text and readable(text):
        return text
    result = _RESULT.search(sentence)
    return result[1].rstrip(",") if result else None


def _last_number(final: str) -> Answer | None:
    """The last number, with those that "or" and "and" put beside it."""
    tail = _without_reason(final[-4000:])
    numbers = [_Span(match.start(), match.end(), match[0].rstrip(",")) for match in _NUMBER.finditer(tail)]
    if not numbers or _REFUSED.search(tail[numbers[-1].end :]):
        return None
    contents = [numbers[-1].content]
    for after, before in pairwise(reversed(numbers)):
        if not _BETWEEN_NUMBERS.fullmatch(tail[before.end : after.start]):
            break
        contents.append(before.content)
    return Answer(_joined(contents[::-1]), "last_number")
