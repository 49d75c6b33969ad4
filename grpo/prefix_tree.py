"""Packed sequences folded into the tree of their prefixes: tokens after the same tokens are computed once.

Prompts that begin alike share their beginning, completions that begin alike theirs, and equal ones everything: a
policy that is nearly certain says the same many times.

Axes: T packed tokens, R rows of the tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from grpo.batch import token_indices
from grpo.kernels.layout import Segment
from grpo.types import PackedTokens

ROWS_A_TOKEN = 32
"""Rows that attend to a segment before their own for the price of a token's linear layers: 7 us a row against 240 us,
forward and backward, with SmolLM2-135M's sizes on a CPU. Sharing pays where it saves more."""


@dataclass(frozen=True)
class PrefixTree:
    """R rows that stand for T packed tokens: token t is row `row_T[t]`."""

    segments: tuple[Segment, ...]
    token_ids_R: Tensor
    position_ids_R: Tensor
    row_T: Tensor


def fold(tokens: PackedTokens) -> PrefixTree:
    """The tree of packed sequences, as far as sharing pays.

    Prompt 5 6 with targets 7 8 9, with targets 7 8 4 and with targets 3 1 is packed as 5 6 7 8 7 8 3. The tree has rows
    for 5 6, then for 3, then for 7 8, and the packed tokens are its rows 0 1 3 4 3 4 2.
    """
    places = [place.tolist() for place in token_indices(tokens)]
    ids = tokens.token_ids_T.tolist()
    tree = _Tree([[ids[token] for token in place] for place in places], places)
    tree.grow()
    device = tokens.token_ids_T.device
    columns = (tree.token_ids, tree.position_ids, [tree.row_of_token[token] for token in range(len(ids))])
    return PrefixTree(
        tuple(tree.segments), *(torch.tensor(column, dtype=torch.long, device=device) for column in columns)
    )


class _Tree:
    """A tree while it grows, depth first, so that whatever goes on from a segment lies right behind it."""

    def __init__(self, sequences: Sequence[list[int]], places: Sequence[list[int]]):
        self.sequences, self.places = sequences, places
        self.segments: list[Segment] = []
        self.token_ids: list[int] = []
        self.position_ids: list[int] = []
        self.row_of_token: dict[int, int] = {}

    def grow(self) -> None:
        """Add all sequences."""
        self._grow(sorted(range(len(self.sequences)), key=self.sequences.__getitem__), 0)

    def _grow(self, members: list[int], depth: int) -> None:
        """Add what sequences in lexical order, alike up to `depth` and all longer, have from there on."""
        common = _common(self.sequences[members[0]], self.sequences[members[-1]], depth)
        # The sequences that end here come first.
        following = {one: self.sequences[one][common : common + 1] for one in members}
        branches = [list(branch) for _, branch in groupby(members, key=following.__getitem__)]
        if len(branches) > 1 and not self._pays(branches, depth, common):
            for branch in branches:
                self._grow(branch, depth)
            return
        number = len(self.segments)
        self._add(members, depth, common)
        for branch in branches:
            if following[branch[0]]:
                self._grow(branch, common)
        self.segments[number] = self.segments[number]._replace(end=len(self.token_ids))

    def _pays(self, branches: Sequence[list[int]], depth: int, common: int) -> bool:
        """Whether the tokens between the two depths, computed once, outweigh the attention of all rows behind them."""
        saved = (common - depth) * (len(branches) - 1)
        behind = sum(len(ids) - common for branch in branches for ids in _distinct(self.sequences, branch))
        return ROWS_A_TOKEN * saved > behind

    def _add(self, members: list[int], depth: int, common: int) -> None:
        start = len(self.token_ids)
        self.segments.append(Segment(start, common - depth, start, depth))
        self.token_ids += self.sequences[members[0]][depth:common]
        self.position_ids += range(depth, common)
        for member in members:
            rows = range(start, len(self.token_ids))
            self.row_of_token |= zip(self.places[member][depth:common], rows, strict=True)


def _distinct(sequences: Sequence[list[int]], members: Sequence[int]) -> list[list[int]]:
    """Of sequences in lexical order each once."""
    return [ids for ids, _ in groupby(sequences[member] for member in members)]


def _common(one: Sequence[int], other: Sequence[int], start: int) -> int:
    """How many tokens two sequences have in common, of which `start` are known."""
    ends = zip(one[start:], other[start:], strict=False)
    return start + next((number for number, (a, b) in enumerate(ends) if a != b), min(len(one), len(other)) - start)
