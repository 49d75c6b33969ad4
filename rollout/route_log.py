"""The experts that routers choose while a wave of completions is sampled.

Axes: P prompts, R rows of a wave, O rows that go on, B rows of the batch, T tokens, L routers, K experts that each
chooses.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grpo.types import Routes


class RouteLog:
    """Reads what routers chose in each pass of a wave. `last` holds the experts of the newest pass by router."""

    def __init__(self, last: Mapping[int, Tensor]):
        self._last = last
        self._prompts: list[Tensor] = []
        self._grown: list[tuple[Tensor, Tensor, Tensor]] = []

    def read_prompts(self, lengths: Sequence[int]) -> None:
        """After the pass over prompts, padded on the left."""
        if self._last:
            experts_PTLK = self._newest().unflatten(0, (len(lengths), -1)).cpu()
            self._prompts = [experts_TLK[-length:] for experts_TLK, length in zip(experts_PTLK, lengths, strict=True)]

    def read_tokens(self, row_O: Tensor, place_O: Tensor) -> None:
        """After a pass over a token of each row of the batch: `place_O` is where the rows `row_O` are in it."""
        if self._last:
            self._grown.append((row_O, place_O, self._newest()))

    def routes(self, prompts_R: Sequence[int], lengths_R: Sequence[int]) -> list[Routes | None]:
        """The routes of every row, given the number of its prompt and the length of its completion."""
        if not self._prompts:
            return [None] * len(prompts_R)
        shape = self._prompts[0].shape[1:]
        grown_RTLK = torch.zeros(len(prompts_R), len(self._grown), *shape, dtype=torch.long)
        for step, (row_O, place_O, experts_BLK) in enumerate(self._grown):
            grown_RTLK[row_O, step] = experts_BLK.cpu()[place_O]
        return [
            Routes.of(torch.cat([self._prompts[prompt], grown_TLK[: length - 1]]))
            for grown_TLK, prompt, length in zip(grown_RTLK, prompts_R, lengths_R, strict=True)
        ]

    def _newest(self) -> Tensor:
        return torch.stack([self._last[layer] for layer in sorted(self._last)], 1)
