"""Block-scaled FP8: numbers in E4M3, each tile of 128 with a scale of its own. The plain version.

DeepSeek-V3, section 3.3: activations and gradients in tiles of 1 x 128 along the inner dimension, weights in blocks of
128 x 128; the scale of a tile makes its largest number E4M3's largest. Products are summed in float32, where the
partial sum of every 128 elements is multiplied by its two scales.

Axes: M and N rows of a product's factors, K its inner dimension, C chunks of K.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

TILE = 128
LARGEST = 448.0
"""Of E4M3."""
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Of a tile of zeros too, which must not be divided by 0."""


class Scaled(NamedTuple):
    """E4M3 numbers (M, K), and scales (M / rows, K / 128) of tiles of `rows` x 128; the last tiles may be smaller."""

    values_MK: Tensor
    scales_MC: Tensor
    rows: int

    def transposed(self) -> "Scaled":
        """Of square blocks, what quantising the transpose gives."""
        if self.rows != TILE:
            raise ValueError(f"only square blocks have a transpose, got tiles of {self.rows} x {TILE}")
        return Scaled(self.values_MK.mT, self.scales_MC.mT, self.rows)

    def spread_scales(self) -> Tensor:
        """The scale of every row in every chunk, (M, C)."""
        return self.scales_MC.repeat_interleave(self.rows, 0)[: len(self.values_MK)]


def quantise(x_MK: Tensor, rows: int) -> Scaled:
    """Round to E4M3 in tiles of `rows` x 128. In [0.1, -0.25, 3.0] the scale is 3 / 448, and 3.0 becomes 448."""
    size, inner = x_MK.shape
    tiles = _tiles(x_MK.float(), rows)
    top_MC = tiles.abs().amax((1, 3))
    # By a tensor: on a GPU torch multiplies by the inverse of a number, which rounds otherwise.
    scales_MC = (top_MC / top_MC.new_full((), LARGEST)).clamp_min(SMALLEST_SCALE)
    values = (tiles / scales_MC[:, None, :, None]).flatten(2).flatten(0, 1)[:size, :inner]
    return Scaled(values.to(torch.float8_e4m3fn), scales_MC, rows)


def _tiles(x_MK: Tensor, rows: int) -> Tensor:
    """(M / rows, rows, K / 128, 128), zeros where a last tile ends early; a single one is as small as it is."""
    size, inner = x_MK.shape
    rows, width = max(1, min(rows, size)), max(1, min(TILE, inner))
    missing = (0, -inner % width, 0, -size % rows)
    padded = pad(x_MK, missing) if any(missing) else x_MK
    return padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // width, width)


def dequantise(x: Scaled) -> Tensor:
    """The numbers that are meant, (M, K) in float32."""
    return x.values_MK.float() * x.spread_scales().repeat_interleave(TILE, 1)[:, : x.values_MK.shape[1]]


def chunks(inner: int) -> list[tuple[int, int]]:
    """First and last + 1 element of each partial sum: after each, it is scaled and added in float32."""
    return [(first, min(first + TILE, inner)) for first in range(0, inner, TILE)]


def product(a: Scaled, b: Scaled) -> Tensor:
    """a @ b.T for (M, K) and (N, K), as (M, N) in float32."""
    a_MC, b_NC = a.spread_scales(), b.spread_scales()
    sum_MN = torch.zeros(len(a_MC), len(b_NC), device=a_MC.device)
    for chunk, (first, last) in enumerate(chunks(a.values_MK.shape[1])):
        part_MN = a.values_MK[:, first:last].float() @ b.values_MK[:, first:last].float().mT
        sum_MN += part_MN.mul_(a_MC[:, chunk, None]).mul_(b_NC[None, :, chunk])
    return sum_MN
