"""Whether two answers mean the same, by what they are: numbers, lists, intervals, equations, quantities.

The conventions are those of a careful grader: what is written in another way is right, what says something else, or
offers several values where there is one, is wrong. README.md lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from grpo.rewards.answers import field, sampling
from grpo.rewards.answers.matrices import multiplied_out
from grpo.rewards.answers.sets import ORDER, as_set, is_surely_a_set, same_sets
from grpo.rewards.answers.tree import Node, TooLarge, num
from grpo.rewards.answers.units import exchange

MAX_ITEMS = 40
_EXPRESSIONS = frozenset(
    {"num", "sym", "+", "*", "/", "^", "neg", "call", "!", "!!", "%", "degree", "based", "infinity", "ratio"}
)
_EQUALITIES = frozenset({"=", "~", "=="})


class Undecided(Exception):
    """Telling whether two expressions are equal takes more than exact arithmetic."""


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the gold: at most `absolute`, or `relative` of the gold's size. 0: exact."""

    absolute: float = 0.0
    relative: float = 0.0


EXACT = Tolerance()
Equal = Callable[[Node, Node], bool]


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
        return field.equal(first, field.evaluate(answer))
    except ZeroDivisionError:
        return False
    except TooLarge:
        return False if field.rational(first) is not None and _is_huge(answer) else None
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
        gold, answer = _plain(gold), _plain(answer)
        if is_surely_a_set(gold) or is_surely_a_set(answer):
            return self.sets(gold, answer)
        if gold.op == "rel" or answer.op == "rel":
            return self.relations(gold, answer)
        if gold.op == "quantity" or answer.op == "quantity":
            return self.quantities(gold, answer)
        if gold.op in _EXPRESSIONS and answer.op in _EXPRESSIONS:
            return self.expressions(gold, answer)
        return self.collections(gold, answer)

    def conditional(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op and gold.value != answer.value:
            return False
        return self.same(gold.args[0] if gold.op == "cond" else gold, answer.args[0] if answer.op == "cond" else answer)

    # --- sets of numbers ----------------------------------------------------------------------------------------------

    def sets(self, gold: Node, answer: Node) -> bool:
        first, second = as_set(_unnamed(gold)), as_set(_unnamed(answer))
        if first is not None and second is not None:
            return same_sets(first, second, self.same)
        if _is_order(gold) and _is_order(answer):
            return self.orders(gold, answer)
        return self.written_alike(gold, answer)

    def written_alike(self, gold: Node, answer: Node) -> bool:
        """Sets with names in their ends: the same operations on the same ends."""
        gold, answer = _ascending(_unnamed(gold)), _ascending(_unnamed(answer))
        if gold.op != answer.op or len(gold.args) != len(answer.args) or gold.value != answer.value:
            return False
        if gold.op in _EXPRESSIONS:
            return self.equal(gold, answer)
        return all(map(self.same, gold.args, answer.args))

    def orders(self, gold: Node, answer: Node) -> bool:
        """Two inequalities between expressions: the same difference is positive."""
        if ("=" in gold.value[0]) != ("=" in answer.value[0]):
            return False
        try:
            c = field.proportional(field.evaluate(_difference(gold)), field.evaluate(_difference(answer)))
        except (TooLarge, ValueError, ZeroDivisionError):
            return False
        return c is not None and c > 0

    # --- equations ----------------------------------------------------------------------------------------------------

    def relations(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op == "rel":
            return self.two_relations(_turned(gold), _turned(answer))
        if gold.op == "rel":
            return any(self.same(value, answer) for value in _stated(_turned(gold), self.equal))
        return any(self.same(gold, value) for value in _stated(_turned(answer), self.equal))

    def two_relations(self, gold: Node, answer: Node) -> bool:
        if gold.value == answer.value == ("in",):
            return self.same(gold.args[1], answer.args[1])
        if not (_EQUALITIES.issuperset(gold.value) and _EQUALITIES.issuperset(answer.value)):
            return gold.value == answer.value and all(map(self.same, gold.args, answer.args))
        if _is_name(gold.args[0]) and _is_name(answer.args[0]):
            if self.same_names(gold.args[0], answer.args[0]):
                values = _stated(gold, self.equal)
                return any(self.same(one, two) for one in values for two in _stated(answer, self.equal))
            if len(gold.args) == 2 and not sampling.symbols(gold.args[1]):
                return False
        if len(gold.args) == len(answer.args) == 2:
            return self.equations(gold, answer)
        return len(gold.args) == len(answer.args) and all(map(self.same, gold.args, answer.args))

    def same_names(self, gold: Node, answer: Node) -> bool:
        if gold == answer or (_is_dependent(gold) and _is_dependent(answer)):
            return True
        return gold.op in _EXPRESSIONS and answer.op in _EXPRESSIONS and exactly(gold, answer) is True

    def equations(self, gold: Node, answer: Node) -> bool:
        """Whether one equation is a multiple of the other."""
        first, second = _difference(gold), _difference(answer)
        if any(side.op not in _EXPRESSIONS for side in (*gold.args, *answer.args)):
            return all(map(self.same, gold.args, answer.args))
        try:
            one, two = field.evaluate(first), field.evaluate(second)
        except (TooLarge, ValueError, ZeroDivisionError):
            return bool(sampling.in_proportion(first, second, sampling.FLOATS))
        if field.proportional(one, two) is not None:
            return True
        return bool(sampling.in_proportion(first, second, sampling.FLOATS))

    # --- lists, tuples, sets, matrices --------------------------------------------------------------------------------

    def collections(self, gold: Node, answer: Node) -> bool:
        gold, answer = _as_rows(gold, answer)
        if gold.op in _EXPRESSIONS | {"quantity"}:
            return self.all_equal(gold, answer)
        if answer.op in _EXPRESSIONS | {"quantity"}:
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
        if gold.op == "list" and answer.op == "list" and _names_all(gold) and _names_all(answer):
            return self.unordered(gold.args, answer.args)
        if gold.op == answer.op == "row":
            return self.in_order(gold, answer)
        if "seq" in (gold.op, answer.op):
            return self.in_order(_unnamed_items(gold), _unnamed_items(answer))
        return self.unordered(
            _unnamed_items(gold).args, _unnamed_items(answer).args, once="set" in (gold.op, answer.op)
        )

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
        if _mentions(gold, "infinity") or _mentions(answer, "infinity"):
            return gold == answer
        return self.equal(gold, answer) or (gold.op == "num" and _metres(answer) == gold)

    def marked(self, op: str, gold: Node, answer: Node) -> bool | None:
        """50% is 50 and 0.5; 30 degrees is 30 and pi/6. A bare gold below 1 is no percentage."""
        first, second = _unmarked(op, gold), _unmarked(op, answer)
        if first is None and second is None:
            return None
        other = "degree" if op == "%" else "%"
        if _unmarked(other, gold) is not None or _unmarked(other, answer) is not None:
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
        return silent and other.op == "num" and other.value == _digits(based)

    def ratios(self, gold: Node, answer: Node) -> bool:
        if gold.op == answer.op:
            pairs = zip(gold.args, answer.args, strict=False)
            (first, second), *others = pairs
            return len(gold.args) == len(answer.args) and all(
                self.equal(Node("*", (first, b)), Node("*", (a, second))) for a, b in others
            )
        one, two = (Node("/", n.args) if n.op == "ratio" and len(n.args) == 2 else n for n in (gold, answer))
        return one.op != "ratio" and two.op != "ratio" and self.equal(one, two)


# --- what nodes say ---------------------------------------------------------------------------------------------------


def _plain(node: Node) -> Node:
    """Without what adds nothing: sums of matrices are worked out, a plus-minus is a list of two, "k is an integer" goes, a list of one is its item."""
    node = multiplied_out(node)
    if node.op == "list":
        kept = tuple(item for item in node.args if not _is_membership(item))
        node = Node("list", kept, node.value) if kept and len(kept) < len(node.args) else node
        if len(node.args) == 1:
            return _plain(node.args[0])
        if any(_mentions(item, "pm") for item in node.args):
            parts = [_plain(item) for item in node.args]
            return Node("list", tuple(x for part in parts for x in (part.args if part.op == "list" else (part,))))
        return node
    if node.op in ("set", "seq") and any(_mentions(item, "pm") for item in node.args):
        parts = [_plain(item) for item in node.args]
        items = tuple(x for part in parts for x in (part.args if part.op == "list" else (part,)))
        return Node(node.op, items, node.value)
    if node.op == "seq" and len(node.args) == 1:
        return node.args[0] if node.args[0].op != "seq" else node
    if _mentions(node, "pm") and node.op != "rows":
        return Node("list", (_signed(node, 1), _signed(node, -1)))
    return node


def _signed(node: Node, sign: int) -> Node:
    """The node with every plus-minus read one way."""
    args = tuple(_signed(argument, sign) for argument in node.args)
    if node.op != "pm":
        return Node(node.op, args, node.value)
    positive = (node.value == "+") == (sign > 0)
    second = args[1] if positive else Node("neg", (args[1],))
    return second if args[0] == num(0) else Node("+", (args[0], second))


def _is_membership(node: Node) -> bool:
    return node.op == "rel" and node.value == ("in",) and (
        node.args[1].op == "reals" or (node.args[1].op == "sym" and str(node.args[1].value).startswith("set "))
    )  # fmt: skip


def _mentions(node: Node, op: str) -> bool:
    return node.op == op or any(_mentions(argument, op) for argument in node.args)


def _is_name(node: Node) -> bool:
    """Whether the node only names what an equation gives a value: x, f(x), AB, a + b, (x, y), dy/dx."""
    if node.op == "sym":
        return node.value not in ("pi", "e")
    if node.op == "^":
        return node.args[0].op == "sym" and node.args[1] == Node("neg", (num(1),))
    if node.op == "call":
        return node.value not in ("sqrt", "root") and all(map(_is_name, node.args))
    return node.op in ("*", "/", "+", "seq", "ratio", "list") and bool(node.args) and all(map(_is_name, node.args))


def _is_dependent(node: Node) -> bool:
    """Y, or a function such as f(x), f(t) or y(x)."""
    if node.op == "sym":
        return node.value == "y"
    return node.op == "*" and node.args[0].op == "sym" and node.args[0].value in ("f", "g", "h", "y", "F")


def _turned(node: Node) -> Node:
    """5 = x is x = 5."""
    if len(node.args) == 2 and node.value == ("=",) and _is_name(node.args[1]) and not _is_name(node.args[0]):
        return Node("rel", node.args[::-1], node.value)
    return node


def _stated(node: Node, equal: Equal) -> list[Node]:
    """The values that an equation states: of x = 6/2 = 3 it is 3; none when it contradicts itself, as 20 = 18 does."""
    if node.value == ("in",):
        return [node.args[1]]
    if not _EQUALITIES.issuperset(node.value):
        return []
    parts: list[list[Node]] = [[node.args[0]]]
    for sign, side in zip(node.value, node.args[1:], strict=True):
        if sign == "~":
            parts.append([])
        parts[-1].append(side)
    unnamed = [[side for side in part if not _is_name(side)] for part in parts]
    found = []
    for part, all_of_it in zip(unnamed, parts, strict=True):
        part = part or (all_of_it[-1:] if len(all_of_it) > 1 else [])
        if not part:
            continue
        formula = not any(_is_name(side) for side in all_of_it) and any(sampling.symbols(side) for side in part)
        if formula and not _is_identity(part, equal):
            return []  # it states no value
        numeric = [_bare(side) for side in part if not sampling.symbols(side) and _bare(side).op in _EXPRESSIONS]
        if any(not equal(side, numeric[-1]) for side in numeric[:-1]):
            return []
        found.append(part[-1])
    return found


def _is_identity(sides: list[Node], equal: Equal) -> bool:
    return all(side.op in _EXPRESSIONS for side in sides) and all(equal(side, sides[-1]) for side in sides[:-1])


def _bare(node: Node) -> Node:
    return node.args[0] if node.op == "quantity" else node


def _unnamed(node: Node) -> Node:
    """A set without the name of its element: x in (1, 2)."""
    return node.args[1] if node.op == "rel" and node.value == ("in",) else node


def _unnamed_items(node: Node) -> Node:
    """A list of equations as a list of their values."""
    if node.op in ("list", "set") and all(item.op == "rel" and _is_assignment(item) for item in node.args[:1]):
        values = tuple(item.args[-1] if item.op == "rel" and _is_assignment(item) else item for item in node.args)
        return Node(node.op, values, node.value)
    return node


def _is_assignment(node: Node) -> bool:
    return node.value == ("=",) and _is_name(node.args[0])


def _names_all(node: Node) -> bool:
    return all(item.op == "rel" for item in node.args)


def _difference(node: Node) -> Node:
    """The left side less the right; of an inequality, what is positive."""
    left, right = node.args
    if node.value[0] in ("<", "<="):
        left, right = right, left
    return Node("+", (left, Node("neg", (right,))))


def _is_order(node: Node) -> bool:
    return node.op == "rel" and len(node.args) == 2 and node.value[0] in ORDER


def _ascending(node: Node) -> Node:
    """c > b > a is a < b < c."""
    if node.op != "rel" or not all(sign in (">", ">=") for sign in node.value):
        return node
    return Node("rel", node.args[::-1], tuple(sign.replace(">", "<") for sign in node.value[::-1]))


def _as_rows(gold: Node, answer: Node) -> tuple[Node, Node]:
    """A list of lists against a matrix is one; a column or a row against a tuple is one."""
    pair = [gold, answer]
    for here, there in ((0, 1), (1, 0)):
        if pair[here].op == "matrix" and pair[there].op in ("seq", "list"):
            other = pair[there]
            if all(item.op == "seq" for item in other.args):
                pair[there] = Node("matrix", tuple(Node("row", item.args) for item in other.args))
            else:
                cells = tuple(cell for row in pair[here].args for cell in row.args)
                flat = len(pair[here].args) == 1 or all(len(row.args) == 1 for row in pair[here].args)
                pair[here] = Node("seq", cells, other.value if other.op == "seq" else "()") if flat else pair[here]
    return pair[0], pair[1]


def _metres(node: Node) -> Node | None:
    """The number of 900m or 5g: a unit without a space, which reads as a product."""
    if node.op == "*" and node.args[0].op == "num" and node.args[1] in (Node("sym", (), "m"), Node("sym", (), "g")):
        return node.args[0]
    return None


def _unmarked(op: str, node: Node) -> Node | None:
    """50 of 50%, -50 of -50%."""
    if node.op == op:
        return node.args[0]
    if node.op == "neg" and node.args[0].op == op:
        return Node("neg", node.args[0].args)
    return None


def _digits(node: Node) -> Fraction | None:
    digits, _ = node.value
    return Fraction(digits) if digits.isdigit() else None
