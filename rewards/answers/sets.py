"""Sets of real numbers, as intervals and points: (1, 2), x > 3, R without 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from grpo.rewards.answers.sampling import value
from grpo.rewards.answers.tree import Node, num

Same = Callable[[Node, Node], bool]

_MINUS, _PLUS = Node("neg", (Node("infinity"),)), Node("infinity")
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
ORDER = frozenset(_TURNED)


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`; each end belongs to it or not. A point is a closed interval of length 0."""

    low: Node
    high: Node
    closed: tuple[bool, bool]

    @property
    def ends(self) -> tuple[float, float]:
        """Where it begins and ends, in floating point."""
        return place(self.low), place(self.high)


WHOLE = Interval(_MINUS, _PLUS, (False, False))


def place(node: Node) -> float:
    """A constant's place on the real line; NaN when it has none."""
    if node.op == "infinity":
        return math.inf
    if node == _MINUS:
        return -math.inf
    found = value(node)
    return math.nan if found is None else found


def is_surely_a_set(node: Node) -> bool:
    """Whether the node can only mean a set of numbers, and not a point or a list of values."""
    if node.op in ("cup", "cap", "without", "reals", "builder"):
        return True
    if node.op == "rel":
        return (
            bool(ORDER.intersection(node.value))
            or "!=" in node.value
            or (node.value == ("in",) and _is_set(node.args[1]))
        )
    if node.op == "list":
        return all(map(is_surely_a_set, node.args))
    return _is_set(node) and (node.value != "()" or any(map(_is_infinite, node.args)))


def as_set(node: Node) -> list[Interval] | None:
    """The intervals of a set in order, those that touch joined; None when it is no set that is known."""
    pieces = _pieces(node)
    return None if pieces is None or _is_unplaced(pieces) else _joined(pieces)


def same_sets(first: list[Interval], second: list[Interval], same: Same) -> bool:
    """Whether two sets have the same intervals."""
    return len(first) == len(second) and all(
        a.closed == b.closed and same(a.low, b.low) and same(a.high, b.high) for a, b in zip(first, second, strict=True)
    )


def _is_set(node: Node) -> bool:
    return node.op == "reals" or (
        node.op == "seq" and len(node.args) == 2 and not any(a.op == "seq" for a in node.args)
    )


def _is_infinite(node: Node) -> bool:
    return node.op == "infinity" or (node.op == "neg" and node.args[0].op == "infinity")


def _pieces(node: Node) -> list[Interval] | None:
    match node.op:
        case "reals":
            return [WHOLE]
        case "seq" if len(node.args) == 2:
            low, high = node.args
            closed = node.value[0] == "[", node.value[1] == "]"
            return [Interval(low, high, closed)]
        case "set" if any(item.op == "rel" for item in node.args):
            return _of_list(Node("list", node.args, "or"))
        case "set":
            return [Interval(item, item, (True, True)) for item in node.args]
        case "cup" | "cap" | "without":
            return _combined(node.op, *map(_pieces, node.args))
        case "rel":
            return _of_relation(node)
        case "list":
            return _of_list(node)
        case "builder":
            element, conditions = node.args[: node.value], node.args[node.value :]
            return _of_list(Node("list", (*(e for e in element if e.op == "rel"), *conditions)))
    return None


def _is_unplaced(pieces: list[Interval]) -> bool:
    """Whether an end of one has no place on the real line."""
    return any(math.isnan(end) for piece in pieces for end in piece.ends)


def _combined(op: str, first: list[Interval] | None, second: list[Interval] | None) -> list[Interval] | None:
    if first is None or second is None or _is_unplaced(first + second):
        return None
    if op == "cup":
        return first + second
    return _met(first, second if op == "cap" else _rest(_joined(second)))


def _of_relation(node: Node) -> list[Interval] | None:
    if node.value == ("in",):
        return _pieces(node.args[1])
    if len(node.args) == 2 and node.args[0].op != "sym" and node.args[1].op == "sym":
        signs = tuple(_TURNED.get(sign, sign) for sign in node.value)
        node = Node("rel", node.args[::-1], signs)
    if len(node.args) == 2 and node.args[0].op == "sym":
        end = node.args[1]
        match node.value[0]:
            case "<" | "<=" as sign:
                return [Interval(_MINUS, end, (False, sign == "<="))]
            case ">" | ">=" as sign:
                return [Interval(end, _PLUS, (sign == ">=", False))]
            case "=":
                return [Interval(end, end, (True, True))]
            case "!=":
                return _rest([Interval(end, end, (True, True))])
    if len(node.args) == 2 and (middle := _distance_from(node.args[0])) is not None and node.value[0] in ORDER:
        return _around(middle, node.args[1], node.value[0])
    if len(node.args) == 3 and node.args[1].op == "sym" and ORDER.issuperset(node.value):
        low, _, high = node.args
        first, second = node.value
        if first[0] == second[0] == ">":
            low, high, first, second = high, low, second, first
        if first[0] == second[0]:
            return [Interval(low, high, ("=" in first, "=" in second))]
    return None


def _distance_from(node: Node) -> Node | None:
    """The a of |x - a|."""
    if node.op != "call" or node.value != "abs":
        return None
    inner = node.args[0]
    if inner.op == "sym":
        return num(0)
    if inner.op == "+" and inner.args[0].op == "sym":
        return Node("neg", (inner.args[1],))
    return None


def _around(middle: Node, radius: Node, sign: str) -> list[Interval]:
    closed = "=" in sign
    ball = Interval(
        Node("+", (middle, Node("neg", (radius,)))), Node("+", (middle, radius)), (closed != (sign[0] == ">"),) * 2
    )
    return [ball] if sign[0] == "<" else _rest([ball])


def _of_list(node: Node) -> list[Interval] | None:
    """Conditions of one name: joined by "or" or where they exclude each other, they are alternatives."""
    names = {a.value for item in node.args if item.op == "rel" for a in item.args if a.op == "sym"}
    parts = [_pieces(item) for item in node.args]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known or len(names) > 1:
        return None
    either = [piece for part in known for piece in part]
    if node.value == "or" or all(item.op != "rel" for item in node.args):
        return either
    met = [WHOLE]
    for part in known:
        met = _met(met, _joined(part))
    return met or either


def _met(first: list[Interval], second: list[Interval]) -> list[Interval]:
    found = []
    for a in first:
        for b in second:
            (a_low, a_high), (b_low, b_high) = a.ends, b.ends
            low = (a.low, a.closed[0]) if (a_low, not a.closed[0]) > (b_low, not b.closed[0]) else (b.low, b.closed[0])
            high = (a.high, a.closed[1]) if (a_high, a.closed[1]) < (b_high, b.closed[1]) else (b.high, b.closed[1])
            start, end = place(low[0]), place(high[0])
            if start < end or (start == end and low[1] and high[1]):
                found.append(Interval(low[0], high[0], (low[1], high[1])))
    return found


def _rest(pieces: list[Interval]) -> list[Interval]:
    """The real numbers outside of disjoint intervals in order."""
    found, start = [], (_MINUS, False)
    for piece in sorted(pieces, key=lambda p: p.ends):
        if place(start[0]) < piece.ends[0]:
            found.append(Interval(start[0], piece.low, (start[1], not piece.closed[0])))
        start = (piece.high, not piece.closed[1])
    if place(start[0]) < math.inf:
        found.append(Interval(start[0], _PLUS, (start[1], False)))
    return found


def _joined(pieces: list[Interval]) -> list[Interval]:
    result: list[Interval] = []
    for piece in sorted(pieces, key=lambda p: (p.ends[0], not p.closed[0])):
        last = result[-1] if result else None
        low, high = piece.ends
        if last is not None and (low < last.ends[1] or (low == last.ends[1] and (piece.closed[0] or last.closed[1]))):
            end = last.ends[1]
            higher = piece if (high, piece.closed[1]) > (end, last.closed[1]) else last
            result[-1] = Interval(last.low, higher.high, (last.closed[0], higher.closed[1]))
        else:
            result.append(piece)
    return result
