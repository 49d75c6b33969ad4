"""Whether two answers mean the same, by what they are: numbers, lists, intervals, equations, quantities.

The conventions are those of a careful grader: what is written in another way is right, what says something else, or
offers several values where there is one, is wrong. README.md lists them.
"""

from dataclasses import dataclass

from grpo.rewards.answers import field, polynomials, sampling
from grpo.rewards.answers.meaning import (
    EQUALITIES,
    EXPRESSIONS,
    Equal,
    as_rows,
    ascending,
    difference,
    is_dependent,
    is_name,
    is_order,
    measured,
    mentions,
    metres,
    name_first,
    names_all,
    names_differ,
    plain_node,
    stated,
    unmarked,
    unnamed,
    unnamed_items,
    written_digits,
)
from grpo.rewards.answers.sets import as_set, is_surely_a_set, same_sets
from grpo.rewards.answers.tree import Node, TooLarge, num
from grpo.rewards.answers.units import exchange

MAX_ITEMS = 40


class Undecided(Exception):
    """Telling whether two expressions are equal takes more than exact arithmetic."""


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the gold: at most `absolute`, or `relative` of the gold's size. 0: exact."""

    absolute: float = 0.0
    relative: float = 0.0


EXACT = Tolerance()


def at_sight(tolerance: Tolerance = EXACT) -> Equal:
    """Equality of expressions by exact arithmetic; floating point only tells apart. Raises Undecided otherwise."""

    def equal(gold: Node, answer: Node) -> bool:
        if tolerance != EXACT and (close := _within(gold, answer, tolerance)) is not None:
            return close
        decided = exactly(gold, answer)
        if decided is None and sampling.agree(gold, answer, sampling.FLOATS) is False:
            return False
        if decided is None:
            raise Undecided
        return decided

    return equal


def exactly(gold: Node, answer: Node) -> bool | None:
    """Equality by exact arithmetic, or None when it cannot tell."""
    try:
        first = field.evaluate(gold)
    except (TooLarge, ValueError, ZeroDivisionError):
        return None
    try:
        return polynomials.equal(first, field.evaluate(answer))
    except ZeroDivisionError:
        return False
    except TooLarge:
        return False if polynomials.rational(first) is not None and _is_huge(answer) else None
    except ValueError:
        return None


def _is_huge(node: Node) -> bool:
    """Whether an expression is too large for a reason that shows its size: it has no name in it."""
    return not sampling.symbols(node)


def _within(gold: Node, answer: Node, tolerance: Tolerance) -> bool | None:
    first, second = sampling.value(gold), sampling.value(answer)
    if first is None or second is None:
        return None
    return abs(first - second) <= max(tolerance.absolute, tolerance.relative * abs(first))


def same(gold: Node, answer: Node, equal: Equal) -> bool:
    """Whether the answer means what the gold means. `equal` compares expressions."""
    return _Comparison(equal).same(gold, answer)


@dataclass(frozen=True)
class _Comparison:
    """Walks through two answers side by side."""

    equal: Equal

    def same(self, gold: Node, answer: Node) -> bool:
        if gold == answer:
            return True
        if gold.op == "cond" or answer.op == "cond":
            return self.conditional(gold, answer)
        gold, answer = plain_node(gold), plain_node(answer)
        if is_surely_a_set(gold) or is_surely_a_set(answer):
            return self.sets(gold, answer)
        if gold.op == "rel" or answer.op == "rel":
            return self.relations(gold, answer)
        if gold.op == "quantity" or answer.op == "quantity":
            return self.quantities(gold, answer)
        if gold.op in EXPRESSIONS and answer.op in EXPRESSIONS:
            return self.expressions(gold, answer)
        return self.collections(gold, answer)

    def conditional(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op and gold.value != answer.value:
            return False
        return self.same(gold.args[0] if gold.op == "cond" else gold, answer.args[0] if answer.op == "cond" else answer)

    # --- sets of numbers ----------------------------------------------------------------------------------------------

    def sets(self, gold: Node, answer: Node) -> bool:
        if names_differ(gold, answer):
            return False
        first, second = as_set(unnamed(gold)), as_set(unnamed(answer))
        if first is not None and second is not None:
            return same_sets(first, second, self.same)
        if is_order(gold) and is_order(answer):
            return self.orders(gold, answer)
        return self.written_alike(gold, answer)

    def written_alike(self, gold: Node, answer: Node) -> bool:
        """Sets with names in their ends: the same operations on the same ends."""
        gold, answer = ascending(unnamed(gold)), ascending(unnamed(answer))
        if gold.op != answer.op or len(gold.args) != len(answer.args) or gold.value != answer.value:
            return False
        if gold.op in EXPRESSIONS:
            return self.equal(gold, answer)
        return all(map(self.same, gold.args, answer.args))

    def orders(self, gold: Node, answer: Node) -> bool:
        """Two inequalities between expressions: the same difference is positive."""
        if ("=" in gold.value[0]) != ("=" in answer.value[0]):
            return False
        try:
            c = polynomials.proportional(field.evaluate(difference(gold)), field.evaluate(difference(answer)))
        except (TooLarge, ValueError, ZeroDivisionError):
            return False
        return c is not None and c > 0

    # --- equations ----------------------------------------------------------------------------------------------------

    def relations(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op == "rel":
            return self.two_relations(name_first(gold), name_first(answer))
        if gold.op == "rel":
            return any(self.same(value, answer) for value in stated(name_first(gold), self.equal))
        values = stated(name_first(answer), self.equal)
        if not values and gold.op in EXPRESSIONS and not sampling.symbols(gold):
            values = measured(answer)
        return any(self.same(gold, value) for value in values)

    def two_relations(self, gold: Node, answer: Node) -> bool:
        if gold.value == answer.value == ("in",):
            return self.same(gold.args[1], answer.args[1])
        if not (EQUALITIES.issuperset(gold.value) and EQUALITIES.issuperset(answer.value)):
            return gold.value == answer.value and all(map(self.same, gold.args, answer.args))
        if is_name(gold.args[0]) and is_name(answer.args[0]):
            if self.same_names(gold.args[0], answer.args[0]):
                values = stated(gold, self.equal)
                return any(self.same(one, two) for one in values for two in stated(answer, self.equal))
            if len(gold.args) == 2 and not sampling.symbols(gold.args[1]):
                return False
        if len(gold.args) == len(answer.args) == 2:
            return self.equations(gold, answer)
        return len(gold.args) == len(answer.args) and all(map(self.same, gold.args, answer.args))

    def same_names(self, gold: Node, answer: Node) -> bool:
        if gold == answer or (is_dependent(gold) and is_dependent(answer)):
            return True
        return gold.op in EXPRESSIONS and answer.op in EXPRESSIONS and exactly(gold, answer) is True

    def equations(self, gold: Node, answer: Node) -> bool:
        """Whether one equation is a multiple of the other."""
        first, second = difference(gold), difference(answer)
        if any(side.op not in EXPRESSIONS for side in (*gold.args, *answer.args)):
            return all(map(self.same, gold.args, answer.args))
        try:
            one, two = field.evaluate(first), field.evaluate(second)
        except (TooLarge, ValueError, ZeroDivisionError):
            return bool(sampling.in_proportion(first, second, sampling.FLOATS))
        if polynomials.proportional(one, two) is not None:
            return True
        return bool(sampling.in_proportion(first, second, sampling.FLOATS))

    # --- lists, tuples, sets, matrices --------------------------------------------------------------------------------

    def collections(self, gold: Node, answer: Node) -> bool:
        gold, answer = as_rows(gold, answer)
        if gold.op in EXPRESSIONS | {"quantity"}:
            return self.all_equal(gold, answer)
        if answer.op in EXPRESSIONS | {"quantity"}:
            alone = gold.op in ("list", "set") and len(gold.args) == 1
            return alone and self.same(gold.args[0], answer)
        if "text" in (gold.op, answer.op):
            return gold.op == answer.op and gold.value == answer.value
        if {gold.op, answer.op} == {"seq", "set"} or len(gold.args) > MAX_ITEMS or len(answer.args) > MAX_ITEMS:
            return False
        if gold.op == "vertical" or answer.op == "vertical":
            return gold.op == answer.op and self.in_order(gold, answer)
        if "matrix" in (gold.op, answer.op):
            return gold.op == answer.op and self.in_order(gold, answer)
        if gold.op == answer.op == "seq":
            return self.sequences(gold, answer)
        if {gold.op, answer.op} <= {"list", "set"} and names_all(gold) and names_all(answer):
            return self.unordered(gold.args, answer.args, once="set" in (gold.op, answer.op))
        if gold.op == answer.op == "row":
            return self.in_order(gold, answer)
        if "seq" in (gold.op, answer.op):
            return self.in_order(unnamed_items(gold), unnamed_items(answer))
        return self.unordered(unnamed_items(gold).args, unnamed_items(answer).args, once="set" in (gold.op, answer.op))

    def all_equal(self, gold: Node, answer: Node) -> bool:
        """An answer of several values is right when each of them is."""
        if answer.op not in ("list", "set") or not answer.args:
            return False
        return all(self.same(gold, item) for item in answer.args)

    def sequences(self, gold: Node, answer: Node) -> bool:
        if gold.value != answer.value and len(gold.args) == 2 and not any(a.op == "seq" for a in gold.args):
            return False  # (1, 2) and [1, 2] are different intervals
        return self.in_order(gold, answer)

    def in_order(self, gold: Node, answer: Node) -> bool:
        return len(gold.args) == len(answer.args) and all(map(self.same, gold.args, answer.args))

    def unordered(self, gold: tuple[Node, ...], answer: tuple[Node, ...], once: bool = False) -> bool:
        if once:
            gold, answer = self.distinct(gold), self.distinct(answer)
        if len(gold) != len(answer):
            return False
        left = list(answer)
        for item in gold:
            found = next((other for other in left if self.same(item, other)), None)
            if found is None:
                return False
            left.remove(found)
        return True

    def distinct(self, items: tuple[Node, ...]) -> tuple[Node, ...]:
        found: list[Node] = []
        for item in items:
            if not any(self.same(item, other) for other in found):
                found.append(item)
        return tuple(found)

    # --- values -------------------------------------------------------------------------------------------------------

    def quantities(self, gold: Node, answer: Node) -> bool:
        if gold.op != answer.op:
            if self.dozens(gold, answer):
                return True
            if any(unmarked(op, node) is not None for op in ("%", "degree") for node in (gold, answer)):
                return False  # 25% is no $25, and 30 degrees are no 30 cm
            return self.same(*(node.args[0] if node.op == "quantity" else node for node in (gold, answer)))
        rate = exchange(gold.value, answer.value)
        if rate is None:
            return False
        inner = answer.args[0]
        return self.same(gold.args[0], inner if rate == 1 else Node("*", (inner, num(rate))))

    def dozens(self, gold: Node, answer: Node) -> bool:
        """8 dozen is 96. Where dozens are asked for it is also 8, as with any unit."""
        first, second = (
            Node("*", (node.args[0], num(12))) if node.op == "quantity" and node.value.startswith("dozen") else node
            for node in (gold, answer)
        )
        return (first, second) != (gold, answer) and self.same(first, second)

    def expressions(self, gold: Node, answer: Node) -> bool:
        for op in ("%", "degree"):
            if (marked := self.marked(op, gold, answer)) is not None:
                return marked
        if "based" in (gold.op, answer.op):
            return self.numerals(gold, answer)
        if "ratio" in (gold.op, answer.op):
            return self.ratios(gold, answer)
        if mentions(gold, "infinity") or mentions(answer, "infinity"):
            return gold == answer
        return self.equal(gold, answer) or (gold.op == "num" and metres(answer) == gold)

    def marked(self, op: str, gold: Node, answer: Node) -> bool | None:
        """50% is 50 and 0.5; 30 degrees is 30 and pi/6. A bare gold below 1 is no percentage."""
        first, second = unmarked(op, gold), unmarked(op, answer)
        if first is None and second is None:
            return None
        other = "degree" if op == "%" else "%"
        if unmarked(other, gold) is not None or unmarked(other, answer) is not None:
            return False
        if first is not None and second is not None:
            return self.expressions(first, second)
        if first is not None:
            return self.expressions(first, answer) or self.equal(gold, answer)
        assert second is not None, "one of the two is marked"
        size = sampling.value(gold)
        bare = op == "degree" or size is None or abs(size) >= 1 or size == 0
        return (bare and self.expressions(gold, second)) or self.equal(gold, answer)

    def numerals(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op:
            return field.base(gold) == field.base(answer) and gold.value[0] == answer.value[0]
        based, other = (gold, answer) if gold.op == "based" else (answer, gold)
        silent = based is gold or field.base(based) == 10
        return silent and other.op == "num" and other.value == written_digits(based)

    def ratios(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op:
            pairs = zip(gold.args, answer.args, strict=False)
            (first, second), *others = pairs
            return len(gold.args) == len(answer.args) and all(
                self.equal(Node("*", (first, b)), Node("*", (a, second))) for a, b in others
            )
        one, two = (Node("/", n.args) if n.op == "ratio" and len(n.args) == 2 else n for n in (gold, answer))
        return one.op != "ratio" and two.op != "ratio" and self.equal(one, two)
