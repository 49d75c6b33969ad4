"""Where the sequences of a packed micro-batch lie, as attention needs it.

Axes: T packed tokens, S segments of similar length, L tokens of the longest.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from grpo.types import PackedGroup

LONGEST_TO_SHORTEST = 1.25
"""Segments that are computed side by side are padded to the longest: at most this factor more work than without."""


class Layout:
    """Groups laid end to end, each a prompt and its completions. What is derived is kept for the layers to come.

    A segment is a run of tokens that see earlier tokens of their own; `across` names what else they see. A group of one
    completion is one segment.
    """

    def __init__(self, groups: Sequence[PackedGroup], device: torch.device):
        self.groups = tuple(groups)
        self.device = device
        self.segments: list[tuple[int, int]] = []
        """Start and length."""
        self.across: list[tuple[slice, slice]] = []
        """Tokens of completions, and the tokens of the prompt that all of them see."""
        start = 0
        for prompt, completions in self.groups:
            own = sum(completions)
            shared = sum(map(bool, completions)) > 1
            lengths = [prompt, *completions] if shared else [prompt + own]
            if shared:
                self.across.append((slice(start + prompt, start + prompt + own), slice(start, start + prompt)))
            for length in filter(None, lengths):
                self.segments.append((start, length))
                start += length
        self.tokens = start
        self.kept: dict[str, Any] = {}
        """What attention makes of the layout, by its name."""

    @cached_property
    def buckets(self) -> list[tuple[Tensor, Tensor | None]]:
        """Token indices (S, L) of segments of similar length, and which of them are no padding; None where all are."""
        groups: list[list[tuple[int, int]]] = []
        for start, length in sorted(self.segments, key=lambda segment: segment[1]):
            if groups and length <= LONGEST_TO_SHORTEST * groups[-1][0][1]:
                groups[-1].append((start, length))
            else:
                groups.append([(start, length)])
        return [_rows(group, self.device) for group in groups]

    @cached_property
    def branches(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each of T tokens its group, its place in the group (0: prompt, 1...: completions), its position."""
        runs = [
            (number, place, length, prompt if place else 0)
            for number, (prompt, completions) in enumerate(self.groups)
            for place, length in enumerate((prompt, *completions))
        ]
        group, branch, length, first = torch.tensor(runs, dtype=torch.long).view(-1, 4).unbind(1)
        apart = first - (length.cumsum(0) - length)  # of a token's position from its index
        group_T, branch_T, apart_T = (each.repeat_interleave(length) for each in (group, branch, apart))
        position_T = torch.arange(self.tokens) + apart_T
        return group_T.to(self.device), branch_T.to(self.device), position_T.to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """The position of each of T tokens in its sequence."""
        return self.branches[2]

    def visible(self, window: int | None = None) -> Tensor:
        """Which token (row) sees which (column): a (T, T) mask, for references and tests."""
        group_T, branch_T, position_T = self.branches
        index_T = torch.arange(self.tokens, device=self.device)
        same_TT = (group_T[:, None] == group_T) & ((branch_T == 0) | (branch_T[:, None] == branch_T))
        apart_TT = position_T[:, None] - position_T
        return same_TT & (index_T <= index_T[:, None]) & (apart_TT < (window or self.tokens + 1))


def _rows(segments: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    starts_S, lengths_S = torch.tensor(segments).unbind(1)
    offset_L = torch.arange(int(lengths_S.max()))
    valid_SL = offset_L < lengths_S[:, None]
    index_SL = (starts_S[:, None] + offset_L).where(valid_SL, starts_S[:, None]).to(device)
    return index_SL, None if valid_SL.all() else valid_SL.to(device)
