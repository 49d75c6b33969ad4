"""Finds the final answer in a completion. Every scan is linear in the text, whatever a model writes."""

import re
from dataclasses import dataclass
from typing import Literal

Rule = Literal["boxed", "answer_tag", "answer_is", "last_number", "whole_text"]


@dataclass(frozen=True)
class Answer:
    """The text of a final answer and the rule that found it."""

    text: str
    rule: Rule


_BRACES = re.compile(r"(\\boxed\s*\{)|\\.|([{}])", re.DOTALL)
_ANSWER_IS = re.compile(r"\banswer\s*(?:is\b\s*:?|:|=)", re.IGNORECASE)
_END_OF_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?|\d+(?:\.\d+)?")


def final_part(text: str) -> str:
    """What follows the last `</think>`. Without one it is the whole text, or nothing when a thought never ended."""
    _, tag, tail = text.rpartition("</think>")
    if tag:
        return tail
    return "" if "<think>" in text else text


def mathematical_answer(text: str) -> Answer | None:
    """The last `\\boxed{}`, or else `<answer>`, or else "answer is ...", or else the last number of the final part.

    >>> mathematical_answer("<think>3?</think> The answer is 72.")
    Answer(text='72', rule='answer_is')
    """
    final = final_part(text)
    return _marked(final) or _spoken(final) or _last_number(final)


def free_answer(text: str) -> Answer | None:
    """The last `\\boxed{}`, or else `<answer>`, or else the whole final part: for answers that are any text."""
    final = final_part(text)
    whole = final.strip()
    return _marked(final, trim=False) or (Answer(whole, "whole_text") if whole else None)


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{}` whose braces balance, or None."""
    starts: list[int] = []
    boxed: dict[int, str] = {}
    for match in _BRACES.finditer(text):
        if match[1]:
            starts.append(match.end())
        elif match[2] == "{":
            starts.append(-1)
        elif match[2] == "}" and starts and (start := starts.pop()) >= 0:
            boxed = {start: text[start : match.start()]} if start > max(boxed, default=-1) else boxed
    return next(iter(boxed.values()), None)


def _marked(final: str, trim: bool = True) -> Answer | None:
    boxed = last_boxed(final)
    if boxed is not None and boxed.strip():
        return Answer(boxed.strip(), "boxed")
    close = final.rfind("</answer>")
    start = final.rfind("<answer>", 0, close) if close >= 0 else -1
    content = final[start + len("<answer>") : close].strip() if start >= 0 else ""
    if not content:
        return None
    spoken = _spoken(content) if trim else None
    return Answer(spoken.text if spoken else content, "answer_tag")


def _spoken(text: str) -> Answer | None:
    """What follows the last "answer is" up to the end of its sentence: a full stop before a space, so 3.5 is whole."""
    ends = [match.end() for match in _ANSWER_IS.finditer(text)]
    if not ends:
        return None
    sentence = _END_OF_SENTENCE.split(text[ends[-1] :].lstrip(" \t\n*"), maxsplit=1)[0].strip(" *")
    return Answer(sentence, "answer_is") if sentence else None


def _last_number(text: str) -> Answer | None:
    numbers = _NUMBER.findall(text)
    return Answer(numbers[-1].rstrip(","), "last_number") if numbers else None
