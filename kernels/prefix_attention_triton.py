"""Attention over shared-prefix groups on a GPU, in Triton; `prefix_attention` is its counterpart on a CPU.

As in FlashAttention-2 (arXiv 2307.08691), scores exist for a block at a time. A tile's rows see two runs of keys, the
prompt that they share and their own earlier tokens, and nothing in between is looked at. Sums have one order: no result
depends on which program is the first.

Axes: T tokens, H query heads, K heads of keys and values, D head size, E size of a value; R rows and C keys of a block.
"""

# mypy: allow-untyped-defs
# Triton reads the annotations of what it compiles, and knows those of its constants alone.

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from grpo.kernels.layout import Layout
from grpo.kernels.plain_attention import Rules
from grpo.kernels.tiles import key_tiles, query_tiles

LARGEST = 256
"""Size of a head."""


class Blocks(NamedTuple):
    """Rows and keys of a block, and how many warps and stages of loading work on it."""

    rows: int
    keys: int
    warps: int
    stages: int


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, rules: Rules) -> Tensor:
    """Attend: query (1, H, T, D), key (1, K, T, D), value (1, K, T, E), result (1, T, H, E).

    It computes in autocast's dtype where that is on, or in the widest of the three; sums are float32.

    Raises:
        NotImplementedError: heads are larger than what a block of scores can be computed from.
    """
    if max(query.shape[-1], value.shape[-1]) > LARGEST:
        raise NotImplementedError(f"no kernel for heads of {query.shape[-1]} and values of {value.shape[-1]} numbers")
    kind = query.device.type
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    if torch.is_autocast_enabled(kind) and dtype.itemsize < 8:
        dtype = torch.get_autocast_dtype(kind)
    inputs = [_rows(t[0].transpose(0, 1).to(dtype)) for t in (query, key, value)]
    with torch.autocast(kind, enabled=False):
        out_THE: Tensor = _PrefixAttention.apply(*inputs, layout, rules)
    return out_THE[None]


def _rows(tensor_THD: Tensor) -> Tensor:
    return tensor_THD if tensor_THD.stride(-1) == 1 else tensor_THD.contiguous()


class _PrefixAttention(torch.autograd.Function):
    """The attention of (T, H, D) over (T, K, D) and (T, K, E)."""

    @staticmethod
    def forward(
        ctx: Any, query_THD: Tensor, key_TKD: Tensor, value_TKE: Tensor, layout: Layout, rules: Rules
    ) -> Tensor:
        out_THE = value_TKE.new_empty(*query_THD.shape[:2], value_TKE.shape[-1])
        lse_TH = query_THD.new_empty(query_THD.shape[:2], dtype=torch.float32)
        sizes, blocks = _sizes(query_THD, key_TKD, value_TKE, rules), _blocks(query_THD, value_TKE, backward=False)
        given = (query_THD, key_TKD, value_TKE, out_THE)
        _run(_forward, blocks.rows, blocks, layout, given, (lse_TH,), rules, sizes)
        ctx.save_for_backward(query_THD, key_TKD, value_TKE, out_THE, lse_TH)
        ctx.layout, ctx.rules = layout, rules
        return out_THE

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THE: Tensor) -> tuple[Tensor | None, ...]:
        query_THD, key_TKD, value_TKE, out_THE, lse_TH = ctx.saved_tensors
        layout, rules, heads = ctx.layout, ctx.rules, key_TKD.shape[1]
        grad_THE = _rows(grad_THE)
        delta_TH = torch.empty_like(lse_TH)  # of each row grad * out, summed: the first kernel leaves it for the second
        sizes, blocks = _sizes(query_THD, key_TKD, value_TKE, rules), _blocks(query_THD, value_TKE, backward=True)
        by_query_THD = torch.empty_like(query_THD, memory_format=torch.contiguous_format)
        # Of every query head, so that as many programs work on keys as on queries.
        by_key_THD, by_value_THE = torch.empty_like(by_query_THD), torch.empty_like(out_THE)
        inputs = (query_THD, key_TKD, value_TKE, grad_THE)
        given = (*inputs, out_THE, by_query_THD)
        _run(_by_query, blocks.rows, blocks, layout, given, (lse_TH, delta_TH), rules, sizes)
        _run(
            _by_key, blocks.keys, blocks, layout, (*inputs, by_key_THD, by_value_THE), (lse_TH, delta_TH), rules, sizes
        )
        return by_query_THD, _summed(by_key_THD, heads), _summed(by_value_THE, heads), None, None


def _summed(by_head_THD: Tensor, heads: int) -> Tensor:
    """Over the query heads that share a key."""
    if by_head_THD.shape[1] == heads:
        return by_head_THD
    return by_head_THD.unflatten(1, (heads, -1)).sum(2)


def _run(
    kernel: Any,
    tile: int,
    blocks: Blocks,
    layout: Layout,
    wide: tuple[Tensor, ...],
    narrow: tuple[Tensor, ...],
    rules: Rules,
    sizes: dict[str, Any],
) -> None:
    """One program a tile of `tile` tokens and a query head."""
    places = _places(layout, tile, by_key=kernel is _by_key)
    strides = [stride for tensor in wide for stride in tensor.stride()[:2]]
    if not len(places.tiles):
        return
    kernel[(len(places.tiles), wide[0].shape[1])](
        *wide, *narrow, *places, *strides, rules.scale, rules.softcap or 1.0, rules.window or 0,
        **sizes, ROWS=blocks.rows, KEYS=blocks.keys, num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip


def _sizes(query_THD: Tensor, key_TKD: Tensor, value_TKE: Tensor, rules: Rules) -> dict[str, Any]:
    """What a kernel is compiled for."""
    size, width = query_THD.shape[-1], value_TKE.shape[-1]
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return {
        "SHARE": query_THD.shape[1] // key_TKD.shape[1], "HEADS": query_THD.shape[1], "D": size, "E": width,
        "D_BLOCK": max(16, triton.next_power_of_2(size)), "E_BLOCK": max(16, triton.next_power_of_2(width)),
        "CAPPED": rules.softcap is not None, "WINDOWED": rules.window is not None,
        "PRECISION": "interpreted" if query_THD.device.type == "cpu" else precision,
    }  # fmt: skip


def _blocks(query_THD: Tensor, value_TKE: Tensor, backward: bool) -> Blocks:
    """Blocks whose operands and sums fit in a multiprocessor's registers and shared memory."""
    size = max(16, triton.next_power_of_2(max(query_THD.shape[-1], value_TKE.shape[-1])))
    if query_THD.dtype == torch.float32:
        return Blocks(32, 32, 4, 1) if size <= 128 else Blocks(16, 16, 4, 1)
    if size <= 128:  # the best of those tried on an H100 (benchmarks/kernels.py)
        return Blocks(64, 32 if backward else 64, 4, 3 if _has_room(query_THD.device) else 1)
    return Blocks(32, 32, 4, 1) if backward else Blocks(64, 32, 4, 2 if _has_room(query_THD.device) else 1)


@cache
def _has_room(device: torch.device) -> bool:
    """Whether shared memory is large enough to load blocks ahead, as that of data centers' GPUs is."""
    if device.type != "cuda":
        return True
    properties: Any = torch.cuda.get_device_properties(device)  # whose stubs lack a name
    return bool(properties.shared_memory_per_block_optin > 150_000)


# --- which tile sees what ---------------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Tiles (n, 5), and of each token the first one of its segment and its position, all int32."""

    tiles: Tensor
    own_T: Tensor
    position_T: Tensor


def _places(layout: Layout, size: int, by_key: bool) -> Places:
    """Made once a micro-batch, and kept with the layout."""
    name = f"{'key' if by_key else 'query'} tiles of {size}"
    if name not in layout.kept:
        tiles = key_tiles(layout, size) if by_key else query_tiles(layout, size)
        layout.kept[name] = Places(
            torch.tensor(tiles, dtype=torch.int32, device=layout.device).view(-1, 5),
            layout.of_each_token([segment.start for segment in layout.segments]).int(),
            layout.positions.int(),
        )
    return layout.kept[name]


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def _load(tensor, token, is_token, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Vectors (n, BLOCK) of some tokens, zeros where there is none and behind their end."""
    place = tl.arange(0, BLOCK)
    where = tensor + token.to(tl.int64)[:, None] * stride + place[None, :]
    return tl.load(where, mask=is_token[:, None] & (place < SIZE)[None, :], other=0.0)


@triton.jit
def _store(tensor, values, token, is_token, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    where = tensor + token.to(tl.int64)[:, None] * stride + place[None, :]
    tl.store(where, values.to(tensor.dtype.element_ty), mask=is_token[:, None] & (place < SIZE)[None, :])


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    if PRECISION == "interpreted":  # where products of bfloat16 are not known
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        product = tl.dot(a, b, input_precision=PRECISION)
    return product


@triton.jit
def _scores(product, scale, cap, CAPPED: tl.constexpr):
    """Scores as exponents of 2, and their derivative by the product of query and key, per unit of natural exponent."""
    if CAPPED:
        squashed = 1.0 - 2.0 / (tl.exp(2.0 * (product * (scale / cap))) + 1.0)
        return squashed * (cap * 1.4426950408889634), scale * (1.0 - squashed * squashed)
    return product * (scale * 1.4426950408889634), tl.zeros_like(product) + scale


@triton.jit
def _sees(
    row, is_row, row_own, row_position, key, is_key, key_position, shared,
    window, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Which row sees which key (R, C); `shared`: the keys are the rows' prompt, where nothing is later."""
    seen = is_row[:, None] & is_key[None, :]
    seen = seen & (shared | ((key[None, :] >= row_own[:, None]) & (key[None, :] <= row[:, None])))
    if WINDOWED:
        seen = seen & (row_position[:, None] - key_position[None, :] < window)
    return seen


@triton.jit
def _forward(
    query, keys, values, out, lse, tiles, own, position,
    q_token, q_head, k_token, k_head, v_token, v_head, o_token, o_head,
    scale, cap, window,
    SHARE: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, D_BLOCK: tl.constexpr,
    E_BLOCK: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head = tiles + tl.program_id(0) * 5, tl.program_id(1)
    first, last, begin, end, own_begin = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    row = first + tl.arange(0, ROWS)
    is_row = row < last
    row_own = tl.load(own + row, mask=is_row, other=0)
    row_position = tl.load(position + row, mask=is_row, other=0x3FFFFFFF)
    if WINDOWED:  # what lies before every row's window
        begin = tl.minimum(end, tl.maximum(begin, begin + tl.min(row_position, 0) - window + 1))
        own_begin = tl.maximum(own_begin, first - window + 1)
    q = _load(query + head * q_head, row, is_row, q_token, D, D_BLOCK)
    top = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, E_BLOCK), tl.float32)
    shared_blocks = tl.cdiv(end - begin, KEYS)
    for block in range(0, shared_blocks + tl.cdiv(last - own_begin, KEYS)):
        shared = block < shared_blocks
        key = tl.where(shared, begin + block * KEYS, own_begin + (block - shared_blocks) * KEYS) + tl.arange(0, KEYS)
        is_key = key < tl.where(shared, end, last)
        key_position = tl.load(position + key, mask=is_key, other=0)
        k = _load(keys + (head // SHARE) * k_head, key, is_key, k_token, D, D_BLOCK)
        score, _ = _scores(_dot(q, tl.trans(k), PRECISION), scale, cap, CAPPED)
        seen = _sees(row, is_row, row_own, row_position, key, is_key, key_position, shared, window, WINDOWED)
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        shrink = tl.exp2(top - higher)
        v = _load(values + (head // SHARE) * v_head, key, is_key, v_token, E, E_BLOCK)
        total = total * shrink + tl.sum(weight, 1)
        sums = sums * shrink[:, None] + _dot(weight.to(v.dtype), v, PRECISION)
        top = higher
    total = tl.where(is_row, total, 1.0)
    _store(out + head * o_head, sums / total[:, None], row, is_row, o_token, E, E_BLOCK)
    tl.store(lse + row.to(tl.int64) * HEADS + head, top + tl.log2(total), mask=is_row)


@triton.jit
def _by_query(
    query, keys, values, grad, out, by_query, lse, delta, tiles, own, position,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head, o_token, o_head, bq_token, bq_head,
    scale, cap, window,
    SHARE: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, D_BLOCK: tl.constexpr,
    E_BLOCK: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head = tiles + tl.program_id(0) * 5, tl.program_id(1)
    first, last, begin, end, own_begin = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    row = first + tl.arange(0, ROWS)
    is_row = row < last
    row_own = tl.load(own + row, mask=is_row, other=0)
    row_position = tl.load(position + row, mask=is_row, other=0x3FFFFFFF)
    if WINDOWED:
        begin = tl.minimum(end, tl.maximum(begin, begin + tl.min(row_position, 0) - window + 1))
        own_begin = tl.maximum(own_begin, first - window + 1)
    q = _load(query + head * q_head, row, is_row, q_token, D, D_BLOCK)
    g = _load(grad + head * g_head, row, is_row, g_token, E, E_BLOCK)
    row_lse = tl.load(lse + row.to(tl.int64) * HEADS + head, mask=is_row, other=0.0)
    o = _load(out + head * o_head, row, is_row, o_token, E, E_BLOCK)
    row_delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + row.to(tl.int64) * HEADS + head, row_delta, mask=is_row)
    sums = tl.zeros((ROWS, D_BLOCK), tl.float32)
    shared_blocks = tl.cdiv(end - begin, KEYS)
    for block in range(0, shared_blocks + tl.cdiv(last - own_begin, KEYS)):
        shared = block < shared_blocks
        key = tl.where(shared, begin + block * KEYS, own_begin + (block - shared_blocks) * KEYS) + tl.arange(0, KEYS)
        is_key = key < tl.where(shared, end, last)
        key_position = tl.load(position + key, mask=is_key, other=0)
        k = _load(keys + (head // SHARE) * k_head, key, is_key, k_token, D, D_BLOCK)
        v = _load(values + (head // SHARE) * v_head, key, is_key, v_token, E, E_BLOCK)
        score, slope = _scores(_dot(q, tl.trans(k), PRECISION), scale, cap, CAPPED)
        seen = _sees(row, is_row, row_own, row_position, key, is_key, key_position, shared, window, WINDOWED)
        weight = tl.where(seen, tl.exp2(tl.where(seen, score, -1e30) - row_lse[:, None]), 0.0)
        by_weight = _dot(g, tl.trans(v), PRECISION)
        by_product = weight * (by_weight - row_delta[:, None]) * slope
        sums += _dot(by_product.to(k.dtype), k, PRECISION)
    _store(by_query + head * bq_head, sums, row, is_row, bq_token, D, D_BLOCK)


@triton.jit
def _by_key(
    query, keys, values, grad, by_key, by_value, lse, delta,
    tiles, own, position,
    q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head,
    bk_token, bk_head, bv_token, bv_head, scale, cap, window,
    SHARE: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, D_BLOCK: tl.constexpr,
    E_BLOCK: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head = tiles + tl.program_id(0) * 5, tl.program_id(1)
    first, last, begin, end, own_end = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    key = first + tl.arange(0, KEYS)
    is_key = key < last
    key_position = tl.load(position + key, mask=is_key, other=0)
    if WINDOWED:  # what lies behind every key's window
        own_end = tl.minimum(own_end, last - 1 + window)
    k = _load(keys + (head // SHARE) * k_head, key, is_key, k_token, D, D_BLOCK)
    v = _load(values + (head // SHARE) * v_head, key, is_key, v_token, E, E_BLOCK)
    key_sums = tl.zeros((KEYS, D_BLOCK), tl.float32)
    value_sums = tl.zeros((KEYS, E_BLOCK), tl.float32)
    shared_blocks = tl.cdiv(end - begin, ROWS)
    for block in range(0, shared_blocks + tl.cdiv(own_end - first, ROWS)):
        shared = block < shared_blocks
        row = tl.where(shared, begin + block * ROWS, first + (block - shared_blocks) * ROWS) + tl.arange(0, ROWS)
        is_row = row < tl.where(shared, end, own_end)
        row_own = tl.load(own + row, mask=is_row, other=0)
        row_position = tl.load(position + row, mask=is_row, other=0)
        row_lse = tl.load(lse + row.to(tl.int64) * HEADS + head, mask=is_row, other=0.0)
        row_delta = tl.load(delta + row.to(tl.int64) * HEADS + head, mask=is_row, other=0.0)
        q = _load(query + head * q_head, row, is_row, q_token, D, D_BLOCK)
        g = _load(grad + head * g_head, row, is_row, g_token, E, E_BLOCK)
        score, slope = _scores(_dot(q, tl.trans(k), PRECISION), scale, cap, CAPPED)
        seen = _sees(row, is_row, row_own, row_position, key, is_key, key_position, shared, window, WINDOWED)
        weight = tl.where(seen, tl.exp2(tl.where(seen, score, -1e30) - row_lse[:, None]), 0.0)
        value_sums += _dot(tl.trans(weight.to(g.dtype)), g, PRECISION)
        by_weight = _dot(g, tl.trans(v), PRECISION)
        by_product = weight * (by_weight - row_delta[:, None]) * slope
        key_sums += _dot(tl.trans(by_product.to(q.dtype)), q, PRECISION)
    _store(by_key + head * bk_head, key_sums, key, is_key, bk_token, D, D_BLOCK)
    _store(by_value + head * bv_head, value_sums, key, is_key, bv_token, E, E_BLOCK)
