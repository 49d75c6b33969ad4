"""What the nodes of answers say: which of them only name a value, what an equation states, what adds nothing."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

from grpo.rewards.answers import sampling
from grpo.rewards.answers.matrices import multiplied_out
from grpo.rewards.answers.sets import ORDER
from grpo.rewards.answers.tree import Node, num

EXPRESSIONS = frozenset(
    {"num", "sym", "+", "*", "/", "^", "neg", "call", "!", "!!", "%", "degree", "based", "infinity", "ratio"}
)
EQUALITIES = frozenset({"=", "~", "=="})

Equal = Callable[[Node, Node], bool]
"""Whether two expressions are equal."""


def plain_node(node: Node) -> Node:
    """Without what adds nothing: sums of matrices worked out, a plus-minus as a list of two, a lone item by itself."""
    node = multiplied_out(node)
    if node.op == "list":
        kept = tuple(item for item in node.args if not is_membership(item))
        node = Node("list", kept, node.value) if kept and len(kept) < len(node.args) else node
        if len(node.args) == 1:
            return plain_node(node.args[0])
        if any(mentions(item, "pm") for item in node.args):
            parts = [plain_node(item) for item in node.args]
            return Node("list", tuple(x for part in parts for x in (part.args if part.op == "list" else (part,))))
        return node
    if node.op in ("set", "seq") and any(mentions(item, "pm") for item in node.args):
        parts = [plain_node(item) for item in node.args]
        items = tuple(x for part in parts for x in (part.args if part.op == "list" else (part,)))
        return Node(node.op, items, node.value)
    if node.op == "set" and len(node.args) == 1 and node.args[0].op == "seq":
        return node.args[0]
    if node.op == "seq" and len(node.args) == 1:
        return node.args[0] if node.args[0].op != "seq" else node
    if mentions(node, "pm") and node.op != "rows":
        return Node("list", (signed(node, 1), signed(node, -1)))
    return node


def signed(node: Node, sign: int) -> Node:
    """The node with every plus-minus read one way."""
    args = tuple(signed(argument, sign) for argument in node.args)
    if node.op != "pm":
        return Node(node.op, args, node.value)
    positive = (node.value == "+") == (sign > 0)
    second = args[1] if positive else Node("neg", (args[1],))
    return second if args[0] == num(0) else Node("+", (args[0], second))


def is_membership(node: Node) -> bool:
    """Whether it says that a name is an integer, or real."""
    return node.op == "rel" and node.value == ("in",) and (
        node.args[1].op == "reals" or (node.args[1].op == "sym" and str(node.args[1].value).startswith("set "))
    )  # fmt: skip


def mentions(node: Node, op: str) -> bool:
    """Whether the operation stands anywhere in the node."""
    return node.op == op or any(mentions(argument, op) for argument in node.args)


def is_name(node: Node) -> bool:
    """Whether the node only names what an equation gives a value: x, f(x), AB, a + b, (x, y), dy/dx."""
    if node.op == "sym":
        return node.value not in ("pi", "e")
    if node.op == "*" and (_is_function(node.args[0]) or _is_inverse(node.args[0])):
        return node.args[1].op in EXPRESSIONS  # f(2), f^{-1}(3)
    if node.op == "^":
        return _is_inverse(node)
    if node.op == "call":
        return node.value not in ("sqrt", "root") and all(map(is_name, node.args))
    return node.op in ("*", "/", "+", "seq", "ratio", "list") and bool(node.args) and all(map(is_name, node.args))


_FUNCTIONS = frozenset("fghFGHPpqQ")


def _is_function(node: Node) -> bool:
    """A letter that stands for a function, f' too."""
    return node.op == "sym" and str(node.value).rstrip("'") in _FUNCTIONS


def _is_inverse(node: Node) -> bool:
    """f^{-1}."""
    return node.op == "^" and node.args[0].op == "sym" and node.args[1] == Node("neg", (num(1),))


def measured(node: Node) -> list[Node]:
    """The number that an equation gives an expression of several names, or a function: a^2 + b^2 = 5, cos(2x) = 1/2.

    Of one name alone it may be an equation yet to be solved: x^2 = 5.
    """
    left, right = node.args[0], node.args[-1]
    if node.value != ("=",) or sampling.symbols(right) or not {left.op, right.op} <= EXPRESSIONS:
        return []
    names = sampling.symbols(left)
    called = left.op == "call" and left.value not in ("sqrt", "root")
    return [right] if len(names) > 1 or (called and names) else []


def is_dependent(node: Node) -> bool:
    """Y, or a function such as f(x), f(t) or y(x)."""
    if node.op == "sym":
        return node.value == "y"
    named = node.op == "*" and node.args[0].op == "sym" and node.args[0].value in ("f", "g", "h", "y", "F")
    return named and is_name(node.args[1])


def name_first(node: Node) -> Node:
    """5 = x is x = 5."""
    if len(node.args) == 2 and node.value == ("=",) and is_name(node.args[1]) and not is_name(node.args[0]):
        return Node("rel", node.args[::-1], node.value)
    return node


def stated(node: Node, equal: Equal) -> list[Node]:
    """The values that an equation states: of x = 6/2 = 3 it is 3; none when it contradicts itself, as 20 = 18 does."""
    if node.value == ("in",):
        return [node.args[1]]
    if not EQUALITIES.issuperset(node.value):
        return []
    parts: list[list[Node]] = [[node.args[0]]]
    for sign, side in zip(node.value, node.args[1:], strict=True):
        if sign == "~":
            parts.append([])
        parts[-1].append(side)
    unnamed = [[side for side in part if not is_name(side)] for part in parts]
    found = []
    for part, all_of_it in zip(unnamed, parts, strict=True):
        part = part or (all_of_it[-1:] if len(all_of_it) > 1 else [])
        if not part:
            continue
        formula = not any(is_name(side) for side in all_of_it) and any(sampling.symbols(side) for side in part)
        if formula and not is_identity(part, equal):
            return []  # it states no value
        numeric = [bare(side) for side in part if not sampling.symbols(side) and bare(side).op in EXPRESSIONS]
        if any(not equal(side, numeric[-1]) for side in numeric[:-1]):
            return []
        found.append(part[-1])
    return found if all(is_rounding(exact, rounded) for exact, rounded in combinations(found, 2)) else found[-1:]


def is_rounding(exact: Node, rounded: Node) -> bool:
    """Whether one of two numbers may be the other rounded or cut off: 10/3 and 3.33, not 3 and 4.

    >>> is_rounding(Node("/", (num(10), num(3))), num("3.33")), is_rounding(num(71), num(72))
    (True, False)
    """
    first, second = (sampling.value(without_unit(node)) for node in (exact, rounded))
    if first is None or second is None:
        return False
    if first.is_integer() and second.is_integer() and abs(first) < 1000:
        return first == second
    places = [_last_place(without_unit(node)) for node in (exact, rounded)]
    unit = max((place for place in places if place is not None), default=0.005 * abs(first))
    return abs(first - second) < unit and abs(first - second) <= 0.05 * abs(first)


def _last_place(node: Node) -> float | None:
    """What one more in the last digit of a numeral adds that is not 0: 0.01 of 3.40 is 0.1; None for other nodes."""
    if node.op == "neg":
        return _last_place(node.args[0])
    if node.op != "num":
        return None
    places = (Fraction(10) ** exponent for exponent in range(12, -13, -1))
    return next((float(place) for place in places if (Fraction(node.value) / place).denominator == 1), 1e-12)


def is_identity(sides: list[Node], equal: Equal) -> bool:
    """Whether all sides of a formula are the same."""
    return all(side.op in EXPRESSIONS for side in sides) and all(equal(side, sides[-1]) for side in sides[:-1])


def without_unit(node: Node) -> Node:
    """The value of a quantity."""
    return node.args[0] if node.op == "quantity" else node


def bare(node: Node) -> Node:
    """Without any unit in it: 12 * $5."""
    node = without_unit(node)
    if not mentions(node, "quantity"):
        return node
    return Node(node.op, tuple(map(bare, node.args)), node.value)


def unnamed(node: Node) -> Node:
    """A set without the name of its element: x in (1, 2)."""
    return node.args[1] if node.op == "rel" and node.value == ("in",) else node


def unnamed_items(node: Node) -> Node:
    """A list of equations as a list of their values."""
    if node.op in ("list", "set") and all(item.op == "rel" and is_assignment(item) for item in node.args[:1]):
        values = tuple(item.args[-1] if item.op == "rel" and is_assignment(item) else item for item in node.args)
        return Node(node.op, values, node.value)
    return node


def is_assignment(node: Node) -> bool:
    """Whether it is an equation that gives a name a value."""
    return node.value == ("=",) and is_name(node.args[0])


def names_all(node: Node) -> bool:
    """Whether all of its items are relations."""
    return all(item.op == "rel" for item in node.args)


def difference(node: Node) -> Node:
    """The left side less the right; of an inequality, what is positive."""
    left, right = node.args
    if node.value[0] in ("<", "<="):
        left, right = right, left
    return Node("+", (left, Node("neg", (right,))))


def names_differ(gold: Node, answer: Node) -> bool:
    """Whether two conditions on one name each are on different ones: x > 3 and y > 3."""
    first, second = sampling.symbols(gold), sampling.symbols(answer)
    conditions = all(node.op == "rel" or (node.op == "list" and names_all(node)) for node in (gold, answer))
    return conditions and len(first) == len(second) == 1 and first != second


def is_order(node: Node) -> bool:
    """Whether it is an inequality of two sides."""
    return node.op == "rel" and len(node.args) == 2 and node.value[0] in ORDER


def ascending(node: Node) -> Node:
    """c > b > a is a < b < c."""
    if node.op != "rel" or not all(sign in (">", ">=") for sign in node.value):
        return node
    return Node("rel", node.args[::-1], tuple(sign.replace(">", "<") for sign in node.value[::-1]))


def as_rows(gold: Node, answer: Node) -> tuple[Node, Node]:
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


def metres(node: Node) -> Node | None:
    """The number of 900m or 5g: a unit without a space, which reads as a product."""
    if node.op == "*" and node.args[0].op == "num" and node.args[1] in (Node("sym", (), "m"), Node("sym", (), "g")):
        return node.args[0]
    return None


def unmarked(op: str, node: Node) -> Node | None:
    """50 of 50%, -50 of -50%."""
    if node.op == op:
        return node.args[0]
    if node.op == "neg" and node.args[0].op == op:
        return Node("neg", node.args[0].args)
    return None


def written_digits(node: Node) -> Fraction | None:
    """The digits of a numeral as a number, whatever its base."""
    digits, _ = node.value
    return Fraction(digits) if digits.isdecimal() else None
