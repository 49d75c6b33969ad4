"""Sums and products of matrices, entry by entry: what they come to is a matrix of expressions."""

from collections.abc import Callable
from itertools import product

from grpo.rewards.answers.tree import Node

MAX_ENTRIES = 64


def multiplied_out(node: Node) -> Node:
    """The matrix that sums, multiples and products of matrices come to; the node itself where they do not fit."""
    if node.op not in ("+", "*", "/", "neg") or not any(_has_matrix(argument) for argument in node.args):
        return node
    args = [multiplied_out(argument) for argument in node.args]
    ops = [argument.op for argument in args]
    if node.op == "neg" and ops == ["matrix"]:
        return _each(args[0], lambda entry: Node("neg", (entry,)))
    if node.op == "+" and ops == ["matrix", "matrix"] and _shape(args[0]) == _shape(args[1]):
        return _sum(*args)
    if node.op == "/" and ops[0] == "matrix" and ops[1] != "matrix":
        return _each(args[0], lambda entry: Node("/", (entry, args[1])))
    if node.op == "*" and ops.count("matrix") == 1:
        matrix, factor = args if ops[0] == "matrix" else args[::-1]
        return _each(matrix, lambda entry: Node("*", (factor, entry)))
    if node.op == "*" and ops == ["matrix", "matrix"] and len(args[0].args[0].args) == len(args[1].args):
        return _product(*args)
    return node


def _has_matrix(node: Node) -> bool:
    return node.op == "matrix" or any(map(_has_matrix, node.args))


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(len(row.args) for row in node.args)


def _each(node: Node, change: Callable[[Node], Node]) -> Node:
    return Node("matrix", tuple(Node("row", tuple(change(entry) for entry in row.args)) for row in node.args))


def _sum(first: Node, second: Node) -> Node:
    rows = zip(first.args, second.args, strict=True)
    return Node("matrix", tuple(Node("row", tuple(map(_added, a.args, b.args))) for a, b in rows))


def _added(first: Node, second: Node) -> Node:
    return Node("+", (first, second))


def _product(first: Node, second: Node) -> Node:
    columns = list(zip(*(row.args for row in second.args), strict=True))
    if len(first.args) * len(columns) > MAX_ENTRIES:
        return Node("*", (first, second))
    entries = [_dot(row.args, column) for row, column in product(first.args, columns)]
    width = len(columns)
    return Node("matrix", tuple(Node("row", tuple(entries[i : i + width])) for i in range(0, len(entries), width)))


def _dot(row: tuple[Node, ...], column: tuple[Node, ...]) -> Node:
    terms = [Node("*", pair) for pair in zip(row, column, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = _added(total, term)
    return total
