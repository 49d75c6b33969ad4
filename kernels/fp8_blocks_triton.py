"""Block-scaled FP8 on a GPU, in Triton; `fp8_blocks` says what is computed.

E4M3 units of a GPU sum less exactly than float32: no sum in them is longer than the 128 elements of a chunk.
"""

# mypy: allow-untyped-defs
# Triton reads the annotations of what it compiles, and knows those of its constants alone.

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.fp8_blocks import LARGEST, SMALLEST_SCALE, TILE, Scaled, chunks

TILES = 16
"""Tiles of 1 x 128 that a program quantises."""
ROWS, COLUMNS = 128, 128
"""Of the result, that a program computes."""
WARPS, STAGES = 8, 3
"""Which work on it, and how many chunks are loaded ahead."""


def quantise(x_MK: Tensor, rows: int) -> Scaled:
    """As `fp8_blocks.quantise`."""
    size, inner = x_MK.shape
    values_MK = torch.empty(size, inner, dtype=torch.float8_e4m3fn, device=x_MK.device)
    scales_MC = torch.empty(triton.cdiv(size, rows), len(chunks(inner)), device=x_MK.device)
    if x_MK.numel():
        block = rows if rows == TILE else TILES
        _quantise[(triton.cdiv(size, block), scales_MC.shape[1])](
            x_MK, values_MK, scales_MC, size, inner, scales_MC.shape[1], *x_MK.stride(),
            block, rows == TILE, TILE, LARGEST, SMALLEST_SCALE,
        )  # fmt: skip
    return Scaled(values_MK, scales_MC, rows)


def product(a: Scaled, b: Scaled) -> Tensor:
    """As `fp8_blocks.product`."""
    size, inner = a.values_MK.shape
    columns = len(b.values_MK)
    out_MN = torch.zeros(size, columns, device=a.values_MK.device)
    if size and columns and inner:
        factors = [part.contiguous() for part in (a.values_MK, a.scales_MC, b.values_MK, b.scales_MC)]
        grid = (triton.cdiv(size, ROWS), triton.cdiv(columns, COLUMNS))
        _product[grid](
            *factors, out_MN, size, columns, inner, a.scales_MC.shape[1], a.rows, b.rows, TILE, ROWS, COLUMNS,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return out_MN


@triton.jit
def _quantise(
    x, values, scales, size, inner, count, row_stride, column_stride,
    ROWS: tl.constexpr, SQUARE: tl.constexpr, TILE: tl.constexpr, LARGEST: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chunk = tl.program_id(1)
    column = chunk * TILE + tl.arange(0, TILE)
    inside = (row < size)[:, None] & (column < inner)[None, :]
    where = row[:, None].to(tl.int64) * row_stride + column[None, :].to(tl.int64) * column_stride
    tile = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(tile), 1)
    if SQUARE:
        largest = tl.zeros_like(largest) + tl.max(largest, 0)
    scale = tl.maximum(tl.div_rn(largest, tl.zeros_like(largest) + LARGEST), SMALLEST)
    ratio = tl.div_rn(tile, tl.zeros_like(tile) + scale[:, None])
    # To E4M3's nearest, ties to even, by float32's own rounding: the distance between numbers is an eighth of the power
    # of two below them, and 2^-9 under 2^-6. What is stored is then exact however a cast would round.
    below = tl.maximum((ratio.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True), 0.015625)
    magic = below * 1572864.0  # 1.5 * 2^23 distances
    rounded = (ratio + magic) - magic
    out = row[:, None].to(tl.int64) * inner + column[None, :]
    tl.store(values + out, rounded.to(tl.float8e4nv), mask=inside)
    if SQUARE:
        tl.store(scales + tl.program_id(0) * count + chunk + row * 0, scale, mask=row == tl.program_id(0) * ROWS)
    else:
        tl.store(scales + row.to(tl.int64) * count + chunk, scale, mask=row < size)


@triton.jit
def _product(
    a, a_scales, b, b_scales, out, size, columns, inner, count,
    A_ROWS: tl.constexpr, B_ROWS: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for chunk in range(0, count):
        place = chunk * TILE + tl.arange(0, TILE)
        is_a = (row < size)[:, None] & (place < inner)[None, :]
        is_b = (column < columns)[None, :] & (place < inner)[:, None]
        left = tl.load(a + row[:, None].to(tl.int64) * inner + place[None, :], mask=is_a, other=0.0)
        right = tl.load(b + column[None, :].to(tl.int64) * inner + place[:, None], mask=is_b, other=0.0)
        by_row = tl.load(a_scales + (row // A_ROWS).to(tl.int64) * count + chunk, mask=row < size, other=0.0)
        by_column = tl.load(
            b_scales + (column // B_ROWS).to(tl.int64) * count + chunk, mask=column < columns, other=0.0
        )
        total += tl.dot(left, right) * by_row[:, None] * by_column[None, :]
    where = out + row[:, None].to(tl.int64) * columns + column[None, :]
    tl.store(where, total, mask=(row < size)[:, None] & (column < columns)[None, :])
