"""Values of expressions at sample points: in floating point to tell answers apart, in long precision to confirm them.

`Arithmetic` is the part of cmath or of mpmath that is used. A difference counts when it is large against everything
that was added up on the way, so that rounding is never taken for one.
"""

import cmath
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from grpo.rewards.answers.tree import Node, TooLarge

POINTS = 8


@dataclass(frozen=True)
class Arithmetic:
    """Numbers of one precision. `functions` by name; `digits` that can be relied on."""

    number: Callable[[Fraction], Any]
    functions: dict[str, Callable[..., Any]]
    constants: dict[str, Any]
    digits: int
    max_exponent: float = 1e5


class _Value:
    """One evaluation: the largest magnitude that was seen on the way is kept."""

    def __init__(self, arithmetic: Arithmetic, point: dict[str, Any]) -> None:
        self.arithmetic = arithmetic
        self.point = point
        self.largest: Any = 0.0

    def of(self, node: Node) -> Any:
        value = self._of(node)
        size = abs(value)
        if not size < math.inf:
            raise OverflowError("not finite")
        if size > self.largest:
            self.largest = size
        return value

    def _of(self, node: Node) -> Any:
        op = node.op
        if op == "num":
            return self.arithmetic.number(node.value)
        if op == "sym":
            constants = self.arithmetic.constants
            return constants[node.value] if node.value in constants else self.point[node.value]
        values = [self.of(argument) for argument in node.args]
        if op == "+":
            return values[0] + values[1]
        if op == "*":
            return values[0] * values[1]
        if op == "/":
            return values[0] / values[1]
        if op == "neg":
            return -values[0]
        if op == "%":
            return values[0] / 100
        if op == "degree":
            return values[0] * self.arithmetic.constants["pi"] / 180
        if op == "^":
            return self._power(*values)
        name = {"call": node.value, "!": "factorial", "!!": "double_factorial"}.get(op)
        if name not in self.arithmetic.functions:
            raise ValueError(f"{op} has no value")
        return self.arithmetic.functions[name](*values)

    def _power(self, base: Any, exponent: Any) -> Any:
        size, limit = abs(base), self.arithmetic.max_exponent
        if size == 0:
            return base if abs(exponent) else base + 1
        if abs(exponent) > limit or abs(exponent) * abs(math.log(size)) > 2 * limit:
            raise TooLarge("a power with too many digits")
        return base**exponent


def symbols(*nodes: Node) -> set[str]:
    """The names in expressions, without the constants."""
    found: set[str] = set()
    for node in nodes:
        if node.op == "sym":
            found.add(node.value)
        found |= symbols(*node.args)
    return found - {"pi", "e", "i"}


def has_imaginary(node: Node) -> bool:
    """Whether i stands in the expression."""
    return (node.op == "sym" and node.value == "i") or any(map(has_imaginary, node.args))


def agree(first: Node, second: Node, arithmetic: Arithmetic) -> bool | None:
    """Whether two expressions have the same values wherever both have real ones; None when that cannot be told."""
    compared = 0
    imaginary = has_imaginary(first) or has_imaginary(second)
    for point, positive in _points(sorted(symbols(first, second)), arithmetic):
        pair = _values(arithmetic, point, first, second)
        if pair is None:
            continue
        (a, b), size = pair
        tolerance = size * 10.0 ** -(arithmetic.digits // 2) if arithmetic.digits < 20 else size * _tiny(arithmetic)
        real = abs(a.imag) <= tolerance and abs(b.imag) <= tolerance
        if not (real or positive or imaginary):
            continue
        if abs(a - b) > tolerance:
            return False
        if size > max(1, abs(a), abs(b)) * 10.0 ** (arithmetic.digits // 3):
            continue  # so much was cancelled, or wrapped around by a sine, that nothing reliable is left
        compared += 1
    return True if compared >= (2 if symbols(first, second) else 1) else None


def in_proportion(first: Node, second: Node, arithmetic: Arithmetic) -> bool | None:
    """Whether one expression is the other times a constant that is not 0."""
    ratios = []
    for point, _ in _points(sorted(symbols(first, second)), arithmetic):
        pair = _values(arithmetic, point, first, second)
        if pair is None:
            continue
        (a, b), size = pair
        if abs(b) <= size * 1e-6 or abs(a) <= size * 1e-6:
            return False
        ratios.append(a / b)
    if len(ratios) < 3:
        return None
    tolerance = abs(ratios[0]) * 10.0 ** -(min(arithmetic.digits, 15) // 2)
    return all(abs(ratio - ratios[0]) <= tolerance for ratio in ratios)


def value(node: Node) -> float | None:
    """The value of a constant as a real number in floating point, or None."""
    try:
        found = _Value(FLOATS, {}).of(node)
    except (KeyError, ArithmeticError, ValueError):
        return None
    return found.real if abs(found.imag) <= 1e-9 * max(1.0, abs(found)) else None


def _tiny(arithmetic: Arithmetic) -> Any:
    return abs(arithmetic.number(Fraction(1, 10 ** (arithmetic.digits - 20))))


def _values(
    arithmetic: Arithmetic, point: dict[str, Any], first: Node, second: Node
) -> tuple[Sequence[Any], Any] | None:
    try:
        one, two = _Value(arithmetic, point), _Value(arithmetic, point)
        values = one.of(first), two.of(second)
    except (ArithmeticError, ValueError, TypeError, TooLarge):
        return None
    return values, max(one.largest, two.largest)


def _points(names: Sequence[str], arithmetic: Arithmetic) -> Iterator[tuple[dict[str, Any], bool]]:
    """Points that depend on nothing but the names: positive ones first. A single one where there is no name."""
    for number in range(POINTS if names else 1):
        seeds = [zlib.crc32(f"{number} {name}".encode()) for name in names]
        sizes = [Fraction(300 + seed % 3107, 1009) for seed in seeds]
        negative = [number >= 3 and (number % 2 == 1 or bool(seed >> 16 & 1)) for seed in seeds]
        signed = [-size if below else size for size, below in zip(sizes, negative, strict=True)]
        yield {n: arithmetic.number(v) for n, v in zip(names, signed, strict=True)}, not any(negative)


def _real(fn: Callable[..., Any]) -> Callable[..., complex]:
    def of_reals(*values: complex) -> complex:
        if any(abs(v.imag) > 1e-12 * max(1.0, abs(v)) for v in values):
            raise ValueError("a complex number has no such value")
        return complex(fn(*(v.real for v in values)))

    return of_reals


def _root(x: complex, n: complex) -> complex:
    if abs(x.imag) < 1e-14 and x.real < 0 and n.real % 2 == 1:
        return -((-x) ** (1 / n))
    return x ** (1 / n)


def _log(x: complex, base: complex | None = None) -> complex:
    return cmath.log(x) if base is None else cmath.log(x) / cmath.log(base)


FLOATS = Arithmetic(
    number=lambda fraction: complex(fraction.numerator / fraction.denominator),
    functions={
        **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "exp", "sqrt")},
        **{name: getattr(cmath, name) for name in ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")},
        "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
        "coth": lambda x: 1 / cmath.tanh(x), "sech": lambda x: 1 / cmath.cosh(x), "csch": lambda x: 1 / cmath.sinh(x),
        "acot": lambda x: cmath.pi / 2 - cmath.atan(x), "asec": lambda x: cmath.acos(1 / x),
        "acsc": lambda x: cmath.asin(1 / x), "ln": _log, "log": _log, "lg": lambda x: cmath.log10(x), "root": _root,
        "cbrt": lambda x: _root(x, 3), "abs": lambda x: complex(abs(x)), "floor": _real(math.floor),
        "ceil": _real(math.ceil), "max": _real(max), "min": _real(min), "factorial": _real(lambda x: math.gamma(x + 1)),
        "binom": _real(lambda n, k: math.gamma(n + 1) / math.gamma(k + 1) / math.gamma(n - k + 1)),
    },
    constants={"pi": complex(math.pi), "e": complex(math.e), "i": 1j},
    digits=15,
)  # fmt: skip
