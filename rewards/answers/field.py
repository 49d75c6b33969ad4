"""The exact value of an expression: a quotient of polynomials in names, pi, e, i and roots of numbers.

A part that cannot be worked out (a sine, a power with a name in its exponent) is a name of its own.
"""

import math
from fractions import Fraction

from grpo.rewards.answers.polynomials import (
    IMAGINARY,
    MAX_BITS,
    ONE,
    Atom,
    Quotient,
    added,
    constant,
    inverse,
    multiplied,
    opaque_part,
    quotient,
    rational,
    reduced,
    times,
)
from grpo.rewards.answers.tree import Node, TooLarge
from grpo.rewards.answers.words import number_in_words

MAX_DEGREE = 64


MAX_FACTORIAL = 3000


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
        return Quotient({((IMAGINARY, 1),): Fraction(1)}, ONE)
    return Quotient({((Atom(node.value), 1),): Fraction(1)}, ONE)


def _sum(node: Node) -> Quotient:
    first, second = map(evaluate, node.args)
    if first.bottom == second.bottom:
        return quotient(added(first.top, second.top), first.bottom, first.opaque or second.opaque)
    top = added(multiplied(first.top, second.bottom), multiplied(second.top, first.bottom))
    return quotient(top, multiplied(first.bottom, second.bottom), first.opaque or second.opaque)


def _product(node: Node) -> Quotient:
    return times(*map(evaluate, node.args))


def _division(node: Node) -> Quotient:
    first, second = map(evaluate, node.args)
    return times(first, inverse(second))


def _negative(node: Node) -> Quotient:
    value = evaluate(node.args[0])
    return Quotient({m: -c for m, c in value.top.items()}, value.bottom, value.opaque)


def _power(node: Node) -> Quotient:
    base, exponent = evaluate(node.args[0]), evaluate(node.args[1])
    count = rational(exponent)
    if count is None:
        return opaque_part("^", base, exponent)
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
        base, count = inverse(base), -count
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
        return opaque_part("root", base, constant(degree))
    if number == 0:
        return constant(0)
    if number < 0:
        if degree != 2:
            return opaque_part("root", base, constant(degree))
        positive = _root(constant(-number), 2)
        return times(positive, Quotient({((IMAGINARY, 1),): Fraction(1)}, ONE))
    # root(p/q) = root(p * q^(n-1)) / q
    inner = number.numerator * number.denominator ** (degree - 1)
    outside, factors, complete = _factored(inner, degree)
    value = constant(Fraction(outside, number.denominator))
    for prime, count in factors:
        common = math.gcd(count, degree)
        atom = Atom(f"{prime}^(1/{degree // common})", degree // common, prime)
        value = times(value, reduced({((atom, count // common),): Fraction(1)}))
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
        return opaque_part(node.op, value)
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
    return opaque_part(name, *values)


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
    return times(evaluate(node.args[0]), Quotient({((Atom("pi"), 1),): Fraction(1, 180)}, ONE))


def base(node: Node) -> int:
    """The base of a numeral such as 1010_2; 0 where the subscript is no number."""
    text = node.value[1]
    return int(text) if text.isdecimal() and len(text) < 3 else number_in_words([text.casefold()]) or 0


def _based(node: Node) -> Quotient:
    digits, count = node.value[0], base(node)
    if not 2 <= count <= 36 or not digits.isalnum() or len(digits) > 200:
        raise ValueError("no number in this base")
    return constant(int(digits, count))


_RULES = {
    "num": lambda node: constant(node.value), "sym": _symbol, "+": _sum, "*": _product, "/": _division,
    "neg": _negative, "^": _power, "!": _factorial, "!!": _factorial, "call": _call, "%": _percent,
    "degree": _degree, "based": _based,
}  # fmt: skip
