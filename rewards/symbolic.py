"""Whether two mathematical texts mean the same, by sympy through math-verify. Runs in a worker: it may take for ever.

Nothing is evaluated: LaTeX goes through a grammar, and math-verify's other parser, which ends in Python's eval, is off.
"""

from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MAX_CHARS = 400
MAX_DEPTH = 30
"""Beyond these a text is not compared symbolically: parsers take exponential time or overflow their stack."""

_LATEX = [LatexExtractionConfig(boxed_match_priority=0)]


def within_limits(text: str) -> bool:
    """Whether a text is short and flat enough to be parsed, and its braces pair up."""
    if len(text) > MAX_CHARS:
        return False
    depth = deepest = 0
    for before, char in zip(f" {text}", text, strict=False):
        if char in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "})]":
            depth -= 1
        if depth < 0 and char == "}" and before != "\\":
            return False
    return deepest <= MAX_DEPTH


def equivalent(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`. Raises ValueError when the gold cannot be read; an unreadable answer is wrong."""
    golds = _parsed(gold)
    if not golds:
        raise ValueError(f"gold answer {gold!r} cannot be read as mathematics")
    answers = _parsed(answer)
    return bool(answers) and bool(verify(golds, answers, timeout_seconds=None))


def _parsed(text: str) -> list[Any]:
    boxed = f"\\boxed{{{text}}}"
    return list(parse(boxed, _LATEX, fallback_mode="no_fallback", parsing_timeout=None)) if text.strip() else []
