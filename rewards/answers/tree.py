"""What an answer says, as a tree."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on other nodes. `value` is what the node itself holds: a number, a name, a pair of brackets.

    Expressions: num, sym, infinity, + * / ^ neg pm, call (value: the function), !, !!, %, degree, based (value: digits
    and base). Around them: seq (value: its brackets), set, list, matrix and row, vertical (a matrix between bars),
    rel (value: the signs), builder (an element and its condition), cup, cap, without, cond (an answer and what it is
    said to hold for), quantity (value: the unit), text (value: its words), reals.
    """

    op: str
    args: tuple["Node", ...] = ()
    value: Any = None


class Unreadable(ValueError):
    """The text is no mathematics that the reader knows."""


class TooLarge(ValueError):
    """A value with more digits than anyone writes as an answer."""


def num(value: int | Fraction) -> Node:
    """A number, exactly."""
    return Node("num", (), Fraction(value))


def is_number(node: Node) -> bool:
    """Whether the node is a literal number."""
    return node.op == "num"
