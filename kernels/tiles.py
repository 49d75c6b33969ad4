"""Which tiles of a packed micro-batch's tokens a GPU's programs work on, and what each tile sees and is seen by."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from grpo.kernels.layout import Layout

NOTHING = slice(0, 0)


class Tile(NamedTuple):
    """Tokens `first` to `last` - 1 of one area, the tokens `begin` to `end` - 1 shared by all of them, and `own`.

    Of rows: the prompt that they see, and the first key of the first row's segment. Of keys: the completions that see
    them, and the end of the last key's segment.
    """

    first: int
    last: int
    begin: int
    end: int
    own: int

    @property
    def work(self) -> int:
        """How many tokens are looked at."""
        return self.end - self.begin + max(self.last - self.own, self.own - self.first)


def query_tiles(layout: Layout, size: int) -> list[Tile]:
    """Tiles of rows, those with the longest work first."""
    starts = [segment.start for segment in layout.segments]
    tiles = (
        Tile(first, last, seen.start, seen.stop, starts[bisect_right(starts, first) - 1])
        for area, seen, _ in _areas(layout)
        for first, last in _cut(area, size)
    )
    return sorted(tiles, key=lambda tile: -tile.work)


def key_tiles(layout: Layout, size: int) -> list[Tile]:
    """Tiles of keys, those with the longest work first."""
    ends = [segment.stop for segment in layout.segments]
    tiles = (
        Tile(first, last, rows.start, rows.stop, ends[bisect_left(ends, last)])
        for area, _, rows in _areas(layout)
        for first, last in _cut(area, size)
    )
    return sorted(tiles, key=lambda tile: -tile.work)


def _cut(area: slice, size: int) -> Iterator[tuple[int, int]]:
    for first in range(area.start, area.stop, size):
        yield first, min(first + size, area.stop)


def _areas(layout: Layout) -> Iterator[tuple[slice, slice, slice]]:
    """Runs of whole segments whose tokens share what they see and who sees them, and both of these.

    Raises:
        NotImplementedError: a segment that goes on from another is itself gone on from.
    """
    place = 0
    for rows, prompt in layout.across:
        if prompt.start < place:
            raise NotImplementedError("tiles know prompts and completions, and no tree of deeper segments")
        yield slice(place, prompt.start), NOTHING, NOTHING
        yield prompt, NOTHING, rows
        yield rows, prompt, NOTHING
        place = rows.stop
    yield slice(place, layout.tokens), NOTHING, NOTHING
