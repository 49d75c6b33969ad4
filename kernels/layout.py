"""Where the sequences of a packed micro-batch lie, as attention needs it.

Axes: T packed tokens, S segments of similar length, L tokens of the longest.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grpo.types import PackedGroup

LONGEST_TO_SHORTEST = 1.25
"""Segments that are computed side by side are padded to the longest: at most this factor more work than without."""


class Segment(NamedTuple):
    """A run of `length` tokens from `start` on. All tokens behind it, up to `end`, see it whole.

    Those are its completions', where it is a prompt, and whatever else goes on from it. `position` is that of its first
    token in the sequences that it belongs to.
    """

    start: int
    length: int
    end: int
    position: int

    @property
    def stop(self) -> int:
        """Behind its last token."""
        return self.start + self.length


def group_segments(groups: Sequence[PackedGroup]) -> Iterator[Segment]:
    """Groups laid end to end, each a prompt and its completions. A group of one completion is one segment."""
    start = 0
    for prompt, completions in groups:
        end = start + prompt + sum(completions)
        if sum(map(bool, completions)) <= 1:
            yield Segment(start, end - start, end, 0)
        else:
            yield Segment(start, prompt, end, 0)
            start += prompt
            for length in filter(None, completions):
                yield Segment(start, length, start + length, prompt)
                start += length
        start = end


class Layout:
    """Segments laid end to end, each right behind one that it goes on from, or behind all that do.

    `across` names what tokens see beside their own segment: tokens, and the earlier segment that all of them see.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device):
        self.segments = tuple(segments)
        self.device = device
        self.across = [(slice(s.stop, s.end), slice(s.start, s.stop)) for s in self.segments if s.end > s.stop]
        self.tokens = self.segments[-1].stop if self.segments else 0
        self.kept: dict[str, Any] = {}
        """What attention makes of the layout, by its name."""

    @classmethod
    def of_groups(cls, groups: Sequence[PackedGroup], device: torch.device) -> "Layout":
        """The layout of packed groups."""
        return cls(tuple(group_segments(groups)), device)

    @cached_property
    def buckets(self) -> list[tuple[Tensor, Tensor | None]]:
        """Token indices (S, L) of segments of similar length, and which of them are no padding; None where all are."""
        groups: list[list[Segment]] = []
        for segment in sorted(self.segments, key=lambda segment: segment.length):
            if groups and segment.length <= LONGEST_TO_SHORTEST * groups[-1][0].length:
                groups[-1].append(segment)
            else:
                groups.append([segment])
        return [_rows(group, self.device) for group in groups]

    @cached_property
    def positions(self) -> Tensor:
        """The position of each of T tokens in its sequences."""
        return torch.arange(self.tokens, device=self.device) + self.of_each_token(
            [s.position - s.start for s in self.segments]
        )

    def of_each_token(self, values: Sequence[int]) -> Tensor:
        """For each of T tokens its segment's value."""
        lengths = torch.tensor([segment.length for segment in self.segments], dtype=torch.long)
        return torch.tensor(values, dtype=torch.long).repeat_interleave(lengths).to(self.device)

    def visible(self, window: int | None = None) -> Tensor:
        """Which token (row) sees which (column): a (T, T) mask, for references and tests."""
        index_T = torch.arange(self.tokens, device=self.device)
        end_T = self.of_each_token([segment.end for segment in self.segments])
        apart_TT = self.positions[:, None] - self.positions
        earlier_TT = index_T <= index_T[:, None]
        return earlier_TT & (index_T[:, None] < end_T) & (apart_TT < (window or self.tokens + 1))


def _rows(segments: Sequence[Segment], device: torch.device) -> tuple[Tensor, Tensor | None]:
    starts_S, lengths_S = torch.tensor([segment[:2] for segment in segments]).unbind(1)
    offset_L = torch.arange(int(lengths_S.max()))
    valid_SL = offset_L < lengths_S[:, None]
    index_SL = (starts_S[:, None] + offset_L).where(valid_SL, starts_S[:, None]).to(device)
    return index_SL, None if valid_SL.all() else valid_SL.to(device)
