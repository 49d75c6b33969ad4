"""Exact arithmetic of answers: quotients of polynomials in names, constants, roots and whatever cannot be worked out.

Two values whose parts are all understood (rational numbers, names, pi, e, i, square and higher roots of numbers) are
equal when their cross products are the same polynomial, and different when not. A part that is not understood (a sine,
a power with a name in its exponent) is a name of its own: what is equal stays equal, what differs may still be equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from grpo.rewards.answers.tree import Node, TooLarge
from grpo.rewards.answers.words import number_in_words

MAX_BITS = 40_000
MAX_TERMS = 300
MAX_DEGREE = 64
MAX_FACTORIAL = 3000

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
_ONE: Polynomial = {(): Fraction(1)}


def constant(value: Fraction | int) -> Quotient:
    """A rational number."""
    if isinstance(value, Fraction) and value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLarge("a number with too many digits")
    return Quotient({(): Fraction(value)} if value else {}, _ONE)


def rational(value: Quotient) -> Fraction | None:
    """The value as a rational number, if it is one."""
    if not value.top:
        return Fraction(0)
    if len(value.top) == len(value.bottom) == 1 and () in value.top and () in value.bottom:
        return value.top[()] / value.bottom[()]
    return None


def equal(first: Quotient, second: Quotient) -> bool | None:
    """Whether two values are equal, or None when that takes more than algebra."""
    if first.bottom is _ONE and second.bottom is _ONE:
        same = first.top == second.top
    else:
        same = _multiplied(first.top, second.bottom) == _multiplied(second.top, first.bottom)
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
    return _multiplied(top, {raised: Fraction(1)}) if raised else top


def evaluate(node: Node) -> Quotient:
    """The exact value of an expression.

    Raises:
        TooLarge: it has more digits or terms than anyone writes as an answer.
        ZeroDivisionError: it divides by 0.
        ValueError: it is no expression.
    """
    rule = _RULES.get(node.op)
    if rule is None:
        raise ValueError(f"{node.op} has no value")
    return rule(node)


def _symbol(node: Node) -> Quotient:
    if node.value == "i":
        return Quotient({((IMAGINARY, 1),): Fraction(1)}, _ONE)
    return Quotient({((Atom(node.value), 1),): Fraction(1)}, _ONE)


def _sum(node: Node) -> Quotient:
    first, second = map(evaluate, node.args)
    if first.bottom == second.bottom:
        return _quotient(_added(first.top, second.top), first.bottom, first.opaque or second.opaque)
    top = _added(_multiplied(first.top, second.bottom), _multiplied(second.top, first.bottom))
    return _quotient(top, _multiplied(first.bottom, second.bottom), first.opaque or second.opaque)


def _product(node: Node) -> Quotient:
    return times(*map(evaluate, node.args))


def times(first: Quotient, second: Quotient) -> Quotient:
    """The product."""
    opaque = first.opaque or second.opaque
    return _quotient(_multiplied(first.top, second.top), _multiplied(first.bottom, second.bottom), opaque)


def _division(node: Node) -> Quotient:
    first, second = map(evaluate, node.args)
    return times(first, _inverse(second))


def _inverse(value: Quotient) -> Quotient:
    if not value.top:
        raise ZeroDivisionError("a division by 0")
    return _quotient(value.bottom, value.top, value.opaque)


def _negative(node: Node) -> Quotient:
    value = evaluate(node.args[0])
    return Quotient({m: -c for m, c in value.top.items()}, value.bottom, value.opaque)


def _power(node: Node) -> Quotient:
    base, exponent = evaluate(node.args[0]), evaluate(node.args[1])
    count = rational(exponent)
    if count is None:
        return _opaque("^", base, exponent)
    if count.denominator != 1:
        root = _root(base, count.denominator)
        return whole_power(root, count.numerator)
    return whole_power(base, count.numerator)


def whole_power(base: Quotient, count: int) -> Quotient:
    """A power with a whole exponent, by repeated squaring within the limits."""
    number = rational(base)
    if number is not None:
        if number == 0 and count < 0:
            raise ZeroDivisionError("a division by 0")
        bits = max(number.numerator.bit_length(), number.denominator.bit_length())
        if abs(count) > 1 and bits > 1 and bits * abs(count) > MAX_BITS:
            raise TooLarge("a power with too many digits")
        if bits <= 1:
            return constant(1 if number == 1 or count % 2 == 0 else number) if number or not count else constant(0)
        return constant(number**count)
    if count < 0:
        base, count = _inverse(base), -count
    if count > MAX_DEGREE and (len(base.top) > 1 or len(base.bottom) > 1):
        raise TooLarge("a power with too many terms")
    if count > 10**6:
        raise TooLarge("a power that is too high")
    result = constant(1)
    while count:
        if count & 1:
            result = times(result, base)
        count >>= 1
        if count:
            base = times(base, base)
    return result


def _root(base: Quotient, degree: int) -> Quotient:
    """The principal root of a number, simplified; of anything else, a part that is not understood."""
    number = rational(base)
    if number is None or degree > 64 or _bits(number) * degree > MAX_BITS:
        return _opaque("root", base, constant(degree))
    if number == 0:
        return constant(0)
    if number < 0:
        if degree != 2:
            return _opaque("root", base, constant(degree))
        positive = _root(constant(-number), 2)
        return times(positive, Quotient({((IMAGINARY, 1),): Fraction(1)}, _ONE))
    # root(p/q) = root(p * q^(n-1)) / q
    inner = number.numerator * number.denominator ** (degree - 1)
    outside, factors, complete = _factored(inner, degree)
    value = constant(Fraction(outside, number.denominator))
    for prime, count in factors:
        common = math.gcd(count, degree)
        atom = Atom(f"{prime}^(1/{degree // common})", degree // common, prime)
        value = times(value, _reduced({((atom, count // common),): Fraction(1)}))
    return Quotient(value.top, value.bottom, not complete or value.opaque or degree not in (2, 3))


def _factored(number: int, degree: int) -> tuple[int, list[tuple[int, int]], bool]:
    """number = outside^degree * product of primes^count with count < degree; and whether it was factored to the end."""
    if number.bit_length() > 200:
        exact = _integer_root(number, degree)
        return (exact, [], True) if exact**degree == number else (1, [(number, 1)], False)
    outside, factors, prime = 1, [], 2
    while prime * prime <= number and prime < 10_000:
        count = 0
        while number % prime == 0:
            number //= prime
            count += 1
        outside *= prime ** (count // degree)
        if count % degree:
            factors.append((prime, count % degree))
        prime += 1 if prime == 2 else 2
    complete = number == 1 or prime * prime > number
    if number > 1:
        exact = _integer_root(number, degree)
        if exact**degree == number:
            return outside * exact, factors, True
        factors.append((number, 1))
    return outside, factors, complete


def _integer_root(number: int, degree: int) -> int:
    if degree == 2:
        return math.isqrt(number)
    guess = 1 << (number.bit_length() // degree + 1)
    while (better := ((degree - 1) * guess + number // guess ** (degree - 1)) // degree) < guess:
        guess = better  # Newton's method, from above
    return guess


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def _factorial(node: Node) -> Quotient:
    value = evaluate(node.args[0])
    number = rational(value)
    if number is None or number.denominator != 1 or number < 0:
        return _opaque(node.op, value)
    if number > MAX_FACTORIAL:
        raise TooLarge("a factorial with too many digits")
    if node.op == "!":
        return constant(math.factorial(int(number)))
    return constant(math.prod(range(int(number), 0, -2)))


def _call(node: Node) -> Quotient:
    values = [evaluate(argument) for argument in node.args]
    numbers = [rational(value) for value in values]
    name = node.value
    if name == "sqrt":
        return _root(values[0], 2)
    if name == "cbrt":
        return _real_root(values[0], 3)
    if (
        name == "root"
        and len(values) == 2
        and numbers[1] is not None
        and numbers[1].denominator == 1
        and numbers[1] > 0
    ):
        return _real_root(values[0], int(numbers[1]))
    if name == "exp" and len(values) == 1:
        return _power(Node("^", (Node("sym", (), "e"), node.args[0])))
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) and (result := _of_numbers(name, known)) is not None:
        return result
    return _opaque(name, *values)


def _real_root(value: Quotient, degree: int) -> Quotient:
    """An odd root of a negative number is negative."""
    number = rational(value)
    if number is not None and number < 0 and degree % 2:
        root = _root(constant(-number), degree)
        return times(constant(-1), root)
    return _root(value, degree)


def _of_numbers(name: str, numbers: list[Fraction]) -> Quotient | None:
    first = numbers[0]
    whole = all(number.denominator == 1 for number in numbers)
    if name == "abs":
        return constant(abs(first))
    if name == "floor":
        return constant(first.__floor__())
    if name == "ceil":
        return constant(first.__ceil__())
    if name in ("max", "min"):
        return constant(max(numbers) if name == "max" else min(numbers))
    if name in ("gcd", "lcm") and whole:
        return constant((math.gcd if name == "gcd" else math.lcm)(*map(int, numbers)))
    if name == "factorial" and len(numbers) == 1:
        return _factorial(Node("!", (Node("num", (), first),)))
    if name == "binom" and len(numbers) == 2 and whole and numbers[1] >= 0 and 0 <= first <= 10_000:
        return constant(math.comb(int(first), int(numbers[1])))
    if (name == "ln" and first == 1) or (name in ("sin", "tan") and first == 0):
        return constant(0)
    if name == "cos" and first == 0:
        return constant(1)
    if name == "log" and len(numbers) == 2 and first > 0 and numbers[1] > 0 and numbers[1] != 1:
        exact = _whole_logarithm(first, numbers[1])
        return None if exact is None else constant(exact)
    return None


def _whole_logarithm(value: Fraction, base: Fraction) -> int | None:
    guess = round(math.log(value) / math.log(base)) if value.numerator.bit_length() < 900 else 10**9
    return guess if abs(guess) < 1000 and base**guess == value else None


def _percent(node: Node) -> Quotient:
    return times(evaluate(node.args[0]), constant(Fraction(1, 100)))


def _degree(node: Node) -> Quotient:
    return times(evaluate(node.args[0]), Quotient({((Atom("pi"), 1),): Fraction(1, 180)}, _ONE))


def base(node: Node) -> int:
    """The base of a numeral such as 1010_2; 0 where the subscript is no number."""
    text = node.value[1]
    return int(text) if text.isdigit() and len(text) < 3 else number_in_words([text.casefold()]) or 0


def _based(node: Node) -> Quotient:
    digits, count = node.value[0], base(node)
    if not 2 <= count <= 36 or not digits.isalnum() or len(digits) > 200:
        raise ValueError("no number in this base")
    return constant(int(digits, count))


def _opaque(name: str, *values: Quotient) -> Quotient:
    """A part that is not understood, named by what it is made of: equal parts have equal names."""
    text = f"{name}({';'.join(map(_name, values))})"
    if len(text) > 4000:
        raise TooLarge("an expression with too many parts")
    return Quotient({((Atom(text, opaque=True), 1),): Fraction(1)}, _ONE, True)


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


# --- polynomials ------------------------------------------------------------------------------------------------------


def _quotient(top: Polynomial, bottom: Polynomial, opaque: bool) -> Quotient:
    """Divide by the bottom when it is a single term of numbers, roots and names."""
    if len(bottom) == 1 and bottom is not _ONE:
        ((monomial, coefficient),) = bottom.items()
        inverse: Polynomial = {tuple((atom, -count) for atom, count in monomial): 1 / coefficient}
        top, bottom = _multiplied(top, inverse), _ONE
    return Quotient(top, bottom, opaque)


def _added(first: Polynomial, second: Polynomial) -> Polynomial:
    result = dict(first)
    for monomial, coefficient in second.items():
        total = result.get(monomial, Fraction(0)) + coefficient
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    return _limited(result)


def _multiplied(first: Polynomial, second: Polynomial) -> Polynomial:
    if first is _ONE:
        return second
    if second is _ONE:
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
    for coefficient in polynomial.values():
        if coefficient.numerator.bit_length() + coefficient.denominator.bit_length() > 2 * MAX_BITS:
            raise TooLarge("a number with too many digits")
    return polynomial


def _reduced(polynomial: Polynomial) -> Quotient:
    result: Polynomial = {}
    for monomial, coefficient in polynomial.items():
        whole, factor = _joined(monomial, ())
        result[whole] = result.get(whole, Fraction(0)) + coefficient * factor
    return Quotient(result, _ONE)


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


_RULES = {
    "num": lambda node: constant(node.value), "sym": _symbol, "+": _sum, "*": _product, "/": _division,
    "neg": _negative, "^": _power, "!": _factorial, "!!": _factorial, "call": _call, "%": _percent,
    "degree": _degree, "based": _based,
}  # fmt: skip
