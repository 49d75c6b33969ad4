"""Decides what exact arithmetic leaves open. Runs in a worker: it may take for ever.

Long precision confirms or denies an identity; math-verify and sympy compare LaTeX that the reader does not know, such
as integrals. Nothing is evaluated: LaTeX goes through a grammar, and math-verify's other parser, which ends in Python's
eval, is off.
"""

from fractions import Fraction
from functools import cache
from typing import Any

from grpo.rewards.answers import sampling
from grpo.rewards.answers.compare import EXACT, Tolerance, Undecided, at_sight
from grpo.rewards.answers.judge import compared, trimmed
from grpo.rewards.answers.reader import read
from grpo.rewards.answers.tree import Node, TooLarge, Unreadable

MAX_CHARS = 400
MAX_DEPTH = 30
"""Beyond these a text is not compared symbolically: parsers take exponential time or overflow their stack."""

MAX_FACTORIAL = 10**12


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


def equivalent(gold: str, answer: str, absolute: float = 0.0, relative: float = 0.0) -> bool:
    """Whether `answer` equals `gold`. Raises ValueError when the gold cannot be read; an unreadable answer is wrong."""
    gold, answer = trimmed(gold), trimmed(answer)
    at_first = at_sight(Tolerance(absolute, relative) if absolute or relative else EXACT)

    def equal(one: Node, two: Node) -> bool:
        try:
            return at_first(one, two)
        except Undecided:
            return confirmed(one, two, len(gold) + len(answer))

    verdict = compared(gold, answer, equal)
    return by_latex(gold, answer) if verdict is None else verdict


def confirmed(gold: Node, answer: Node, length: int) -> bool:
    """Equality in more digits than the texts could hold. Raises ValueError when both are beyond computing."""
    arithmetic = long_precision(80 + length)
    verdict = sampling.agree(gold, answer, arithmetic)
    if verdict is not None:
        return verdict
    if _has_value(gold, arithmetic) != _has_value(answer, arithmetic):
        return False
    raise ValueError("the values are beyond what can be computed")


def by_latex(gold: str, answer: str) -> bool:
    """Compare by math-verify what the reader does not know."""
    golds, answers = _parsed(gold), _parsed(answer)
    if not golds:
        if _is_readable(gold):
            return False
        raise ValueError(f"gold answer {gold!r} cannot be read as mathematics")
    if not answers or _commas(gold) != _commas(answer):
        return False
    from math_verify import verify

    return bool(verify(golds, answers, timeout_seconds=None))


def _commas(text: str) -> int:
    return text.count(",") - text.count("\\,")


def long_precision(digits: int) -> sampling.Arithmetic:
    """The part of mpmath that expressions use."""
    from mpmath import mp

    mp.dps = digits

    def number(value: Fraction) -> Any:
        return mp.mpc(value.numerator) / value.denominator

    def factorial(x: Any) -> Any:
        if abs(x) > MAX_FACTORIAL:
            raise TooLarge("a factorial with too many digits")
        return mp.gamma(x + 1)

    def real(fn: Any) -> Any:
        def of_reals(*values: Any) -> Any:
            if any(abs(v.imag) > mp.mpf(10) ** (20 - digits) * max(1, abs(v)) for v in values):
                raise ValueError("a complex number has no such value")
            return mp.mpc(fn(*(v.real for v in values)))

        return of_reals

    def root(x: Any, n: Any) -> Any:
        return -((-x) ** (1 / n)) if abs(x.imag) < 1e-30 and x.real < 0 and n.real % 2 == 1 else x ** (1 / n)

    names = "sin cos tan cot sec csc asin acos atan asec acsc sinh cosh tanh coth sech csch asinh acosh atanh exp sqrt"
    return sampling.Arithmetic(
        number=number,
        functions={
            **{name: getattr(mp, name) for name in names.split()},
            "acot": lambda x: mp.pi / 2 - mp.atan(x), "ln": mp.log, "log": mp.log, "lg": mp.log10, "root": root,
            "cbrt": lambda x: root(x, mp.mpc(3)), "abs": lambda x: mp.mpc(abs(x)), "floor": real(mp.floor),
            "ceil": real(mp.ceil), "max": real(max), "min": real(min), "factorial": factorial,
            "binom": lambda n, k: factorial(n) / factorial(k) / factorial(n - k),
        },
        constants={"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)},
        digits=digits,
        max_exponent=1e12,
    )  # fmt: skip


def _has_value(node: Node, arithmetic: sampling.Arithmetic) -> bool:
    return sampling.agree(node, node, arithmetic) is True


def _is_readable(text: str) -> bool:
    try:
        read(text)
    except (Unreadable, RecursionError):
        return False
    return True


@cache
def _latex() -> list[Any]:
    from math_verify import LatexExtractionConfig

    return [LatexExtractionConfig(boxed_match_priority=0)]


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    boxed = f"\\boxed{{{text}}}"
    return list(parse(boxed, _latex(), fallback_mode="no_fallback", parsing_timeout=None)) if text.strip() else []
