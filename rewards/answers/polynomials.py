"""Quotients of polynomials in names, constants, roots and parts that are not understood: sums, products, equality.

Two values whose parts are all understood are equal when their cross products are the same polynomial, and different
when not. Where a part is not understood, what is equal stays equal, and what differs may still be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from grpo.rewards.answers.tree import TooLarge

MAX_BITS = 40_000
MAX_BITS_OF_SEVERAL = 2_000
"""The same for each coefficient of a sum: a power of one multiplies hundreds of them by each other."""


MAX_TERMS = 300


Monomial = tuple[tuple["Atom", int], ...]


Polynomial = dict[Monomial, Fraction]


@dataclass(frozen=True, slots=True)
class Atom:
    """Something that cannot be broken up. A root has `degree` > 1: its power `degree` is the number `value`."""

    name: str
    degree: int = 0
    value: int = 0
    opaque: bool = False

    def __lt__(self, other: Atom) -> bool:
        return self.name < other.name


@dataclass(frozen=True, slots=True)
class Quotient:
    """A value. `opaque`: it has parts that are not understood."""

    top: Polynomial
    bottom: Polynomial
    opaque: bool = False


IMAGINARY = Atom("i", 2, -1)


ONE: Polynomial = {(): Fraction(1)}


def constant(value: Fraction | int) -> Quotient:
    """A rational number."""
    if isinstance(value, Fraction) and value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLarge("a number with too many digits")
    return Quotient({(): Fraction(value)} if value else {}, ONE)


def rational(value: Quotient) -> Fraction | None:
    """The value as a rational number, if it is one."""
    if not value.top:
        return Fraction(0)
    if len(value.top) == len(value.bottom) == 1 and () in value.top and () in value.bottom:
        return value.top[()] / value.bottom[()]
    return None


def equal(first: Quotient, second: Quotient) -> bool | None:
    """Whether two values are equal, or None when that takes more than algebra."""
    if first.bottom is ONE and second.bottom is ONE:
        same = first.top == second.top
    else:
        same = multiplied(first.top, second.bottom) == multiplied(second.top, first.bottom)
    return True if same else None if first.opaque or second.opaque else False


def proportional(first: Quotient, second: Quotient) -> Fraction | None:
    """The rational c with first = c * second, or None when there is none; names below a fraction are cleared first."""
    one, two = _cleared(first.top), _cleared(second.top)
    shared = next(iter(one.keys() & two.keys()), None)
    if shared is None or len(one) != len(two):
        return None
    c = one[shared] / two[shared]
    return c if all(c * two.get(monomial, 0) == coefficient for monomial, coefficient in one.items()) else None


def _cleared(top: Polynomial) -> Polynomial:
    lowest: dict[Atom, int] = {}
    for monomial in top:
        for atom, count in monomial:
            lowest[atom] = min(lowest.get(atom, 0), count)
    raised = tuple((atom, -count) for atom, count in lowest.items() if count < 0)
    return multiplied(top, {raised: Fraction(1)}) if raised else top


def times(first: Quotient, second: Quotient) -> Quotient:
    """The product."""
    opaque = first.opaque or second.opaque
    return quotient(multiplied(first.top, second.top), multiplied(first.bottom, second.bottom), opaque)


def inverse(value: Quotient) -> Quotient:
    """One over a value. Raises ZeroDivisionError."""
    if not value.top:
        raise ZeroDivisionError("a division by 0")
    return quotient(value.bottom, value.top, value.opaque)


def quotient(top: Polynomial, bottom: Polynomial, opaque: bool) -> Quotient:
    """Divide by the bottom when it is a single term of numbers, roots and names."""
    if len(bottom) == 1 and bottom is not ONE:
        ((monomial, coefficient),) = bottom.items()
        inverse: Polynomial = {tuple((atom, -count) for atom, count in monomial): 1 / coefficient}
        top, bottom = multiplied(top, inverse), ONE
    return Quotient(top, bottom, opaque)


def opaque_part(name: str, *values: Quotient) -> Quotient:
    """A part that is not understood, named by what it is made of: equal parts have equal names."""
    text = f"{name}({';'.join(map(_name, values))})"
    if len(text) > 4000:
        raise TooLarge("an expression with too many parts")
    return Quotient({((Atom(text, opaque=True), 1),): Fraction(1)}, ONE, True)


def _name(value: Quotient) -> str:
    """Quotients are the same when their texts are, once the first coefficient below is 1."""
    scale = next(iter(dict(sorted(value.bottom.items(), key=_order)).values()))
    top, bottom = (
        "+".join(
            f"{_text(c / scale)}*{'*'.join(f'{a.name}^{n}' for a, n in m)}" for m, c in sorted(p.items(), key=_order)
        )
        for p in (value.top, value.bottom)
    )
    return f"{top}/{bottom}"


def _text(number: Fraction) -> str:
    """Hexadecimal: Python refuses to write long numbers in decimals."""
    return f"{number.numerator:x}/{number.denominator:x}"


def _order(item: tuple[Monomial, Fraction]) -> str:
    return ",".join(f"{atom.name}^{count}" for atom, count in item[0])


def added(first: Polynomial, second: Polynomial) -> Polynomial:
    """The sum."""
    result = dict(first)
    for monomial, coefficient in second.items():
        total = result.get(monomial, Fraction(0)) + coefficient
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    return _limited(result)


def multiplied(first: Polynomial, second: Polynomial) -> Polynomial:
    """The product."""
    if first is ONE:
        return second
    if second is ONE:
        return first
    if len(first) * len(second) > 20 * MAX_TERMS:
        raise TooLarge("an expression with too many terms")
    result: Polynomial = {}
    for one, a in first.items():
        for two, b in second.items():
            monomial, factor = _joined(one, two)
            total = result.get(monomial, Fraction(0)) + a * b * factor
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    return _limited(result)


def _limited(polynomial: Polynomial) -> Polynomial:
    if len(polynomial) > MAX_TERMS:
        raise TooLarge("an expression with too many terms")
    most = 2 * (MAX_BITS if len(polynomial) <= 1 else MAX_BITS_OF_SEVERAL)
    for coefficient in polynomial.values():
        if coefficient.numerator.bit_length() + coefficient.denominator.bit_length() > most:
            raise TooLarge("a number with too many digits")
    return polynomial


def reduced(polynomial: Polynomial) -> Quotient:
    """A polynomial with its roots reduced, as a value."""
    result: Polynomial = {}
    for monomial, coefficient in polynomial.items():
        whole, factor = _joined(monomial, ())
        result[whole] = result.get(whole, Fraction(0)) + coefficient * factor
    return Quotient(result, ONE)


def _joined(first: Monomial, second: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials: roots are reduced, so that sqrt(2) * sqrt(2) leaves the factor 2."""
    counts: dict[Atom, int] = dict(first)
    for atom, count in second:
        counts[atom] = counts.get(atom, 0) + count
    factor = Fraction(1)
    kept = []
    for atom, count in counts.items():
        if atom.degree:
            whole, count = divmod(count, atom.degree)
            if abs(whole) * atom.value.bit_length() > MAX_BITS:
                raise TooLarge("a power with too many digits")
            factor *= Fraction(atom.value) ** whole
        if count:
            kept.append((atom, count))
    return tuple(sorted(kept)), factor
