"""What is done with a tile of logits, in one pass over it each: the version for GPUs, of logprob_tiles.py.

A program takes some rows and walks over the tile's columns. N: tokens, V: the tile's part of the vocabulary.
"""

# mypy: allow-untyped-defs
# Triton reads the annotations of what it compiles, and knows those of its constants alone.

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.logprob_tiles import RowGradient, RowState

ROWS, COLUMNS = 4, 1024
"""Of the block that a program holds in registers."""


def absorb(state: RowState, logits_NV: Tensor, target_ids_N: Tensor, first: int) -> RowState:
    """Take in a tile, as `logprob_tiles.absorb` does; it stays as it is."""
    after = RowState(*(torch.empty_like(part) for part in state))
    rows, columns = logits_NV.shape
    _absorb[(triton.cdiv(rows, ROWS),)](
        logits_NV, target_ids_N, *state, *after, first, rows, columns, logits_NV.stride(0), ROWS, COLUMNS
    )
    return after


def tile_gradient(logits_NV: Tensor, rows: RowGradient, target_ids_N: Tensor, first: int) -> Tensor:
    """The loss's derivative by the logits of a tile, as `logprob_tiles.tile_gradient` has it, in their place."""
    count, columns = logits_NV.shape
    grid = (triton.cdiv(count, ROWS), triton.cdiv(columns, COLUMNS))
    parts = [part.contiguous() for part in rows]
    _tile_gradient[grid](logits_NV, target_ids_N, *parts, first, count, columns, logits_NV.stride(0), ROWS, COLUMNS)
    return logits_NV


@triton.jit
def _absorb(
    logits, targets, top_in, sum_in, moment_in, target_in,
    top_out, sum_out, moment_out, target_out,
    first, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < rows
    top = tl.load(top_in + row, mask=is_row, other=0.0)
    total = tl.load(sum_in + row, mask=is_row, other=1.0)
    moment = tl.load(moment_in + row, mask=is_row, other=0.0)
    met = tl.load(target_in + row, mask=is_row, other=0.0)
    place = tl.load(targets + row, mask=is_row, other=-1) - first
    for begin in range(0, columns, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        inside = is_row[:, None] & (column < columns)[None, :]
        block = tl.load(logits + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(block, 1))
        higher = tl.where(is_row, higher, 0.0)
        fall = top - higher
        moved = tl.where(total > 0, moment + fall * total, 0.0)  # the first fall is infinite, and its sums are 0
        shrink = tl.exp(fall)
        shifted = tl.where(inside, block - higher[:, None], 0.0)
        weights = tl.where(inside, tl.exp(shifted), 0.0)
        total = shrink * total + tl.sum(weights, 1)
        moment = shrink * moved + tl.sum(weights * shifted, 1)
        here = (column[None, :] == place[:, None]) & inside
        met = tl.where(tl.sum(here.to(tl.int32), 1) > 0, tl.sum(tl.where(here, block, 0.0), 1), met)
        top = higher
    tl.store(top_out + row, top, mask=is_row)
    tl.store(sum_out + row, total, mask=is_row)
    tl.store(moment_out + row, moment, mask=is_row)
    tl.store(target_out + row, met, mask=is_row)


@triton.jit
def _tile_gradient(
    logits, targets, by_logprob, by_entropy, log_total, entropy,
    first, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = row < rows
    inside = is_row[:, None] & (column < columns)[None, :]
    where = logits + row[:, None].to(tl.int64) * stride + column[None, :]
    logprob = tl.load(where, mask=inside, other=0.0) - tl.load(log_total + row, mask=is_row, other=0.0)[:, None]
    slope = tl.load(by_logprob + row, mask=is_row, other=0.0)
    bend = tl.load(by_entropy + row, mask=is_row, other=0.0)
    value = tl.load(entropy + row, mask=is_row, other=0.0)
    place = tl.load(targets + row, mask=is_row, other=-1) - first
    gradient = -tl.exp(logprob) * ((slope + bend * value)[:, None] + bend[:, None] * logprob)
    gradient += tl.where(column[None, :] == place[:, None], slope[:, None], 0.0)
    tl.store(where, gradient, mask=inside)
