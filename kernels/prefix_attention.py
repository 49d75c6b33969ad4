"""Attention over shared prefixes on a CPU: nothing is computed twice, little is padded.

Every segment attends to itself, segments of similar length side by side; whatever goes on from one attends to it at
once. The softmaxes of a token over its own segment and those before are joined by their log-sum-exps. In the backward
pass each part, given the joint output and log-sum-exp, yields its share of the gradient (FlashAttention, arXiv
2205.14135, B.2).

Axes: T tokens, H query heads, K heads of keys and values, D head size; B batch, L rows, J keys of one call.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo.kernels import plain_attention
from grpo.kernels.layout import Layout
from grpo.kernels.plain_attention import Gradients, Mask, Rules

MASKED_ROWS = 1024
"""Rows of a mask at most: a window may cut through everything behind a shared text."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, rules: Rules) -> Tensor:
    """Attend: query (1, H, T, D), key (1, K, T, D), value (1, K, T, E), result (1, T, H, E).

    It computes in float32 (or float64), whatever comes: on a CPU that is as fast as bfloat16, or faster.
    """
    size = max(query.shape[-1], value.shape[-1])
    dtype = torch.promote_types(query.dtype, torch.float32)
    # Latent attention has values of another size. Zeros change no product, and torch's kernel wants one size.
    inputs = [pad(t[0].transpose(0, 1).to(dtype), (0, size - t.shape[-1])) for t in (query, key, value)]
    with torch.autocast("cpu", enabled=False):
        out_THD = _PrefixAttention.apply(*inputs, layout, rules)
    return out_THD[None, ..., : value.shape[-1]].to(value.dtype)


class _PrefixAttention(torch.autograd.Function):
    """The attention of (T, H, D) over (T, K, D), with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: Any, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, layout: Layout, rules: Rules
    ) -> Tensor:
        query_THD, key_TKD, value_TKD = (tensor.contiguous() for tensor in (query_THD, key_TKD, value_TKD))
        out_THD, lse_TH = torch.empty_like(query_THD), query_THD.new_empty(query_THD.shape[:2])
        attend, _ = _kernel(rules)
        for part in _side_by_side(layout):
            inputs = (part.take(tensor) for tensor in (query_THD, key_TKD, value_TKD))
            out, lse = attend(*inputs, _causal(part, rules), rules)
            part.put(out_THD, out)
            part.put(lse_TH, lse)
        for rows, keys, mask in _across(layout, rules.window):
            given = query_THD[rows], key_TKD[keys], value_TKD[keys]
            out, lse = attend(*map(_batch, given), mask, rules)
            _join(out_THD[rows], lse_TH[rows], _unbatch(out), _unbatch(lse))
        ctx.save_for_backward(query_THD, key_TKD, value_TKD, out_THD, lse_TH)
        ctx.layout, ctx.rules = layout, rules
        return out_THD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:
        query_THD, key_TKD, value_TKD, out_THD, lse_TH = ctx.saved_tensors
        _, gradients = _kernel(ctx.rules)
        by = [torch.empty_like(tensor) for tensor in (query_THD, key_TKD, value_TKD)]
        grad_THD = grad_THD.contiguous()
        for part in _side_by_side(ctx.layout):
            inputs = [part.take(tensor) for tensor in (query_THD, key_TKD, value_TKD, out_THD)]
            grad, lse = part.take(grad_THD, padded_with=0.0), part.take(lse_TH, padded_with=torch.inf)
            pieces = gradients(grad, *inputs, lse, _causal(part, ctx.rules), ctx.rules)
            for whole, piece in zip(by, pieces, strict=True):
                part.put(whole, piece)
        for rows, keys, mask in _across(ctx.layout, ctx.rules.window):
            given = grad_THD[rows], query_THD[rows], key_TKD[keys], value_TKD[keys], out_THD[rows], lse_TH[rows]
            pieces = gradients(*map(_batch, given), mask, ctx.rules)
            for whole, where, piece in zip(by, (rows, keys, keys), pieces, strict=True):
                whole[where] += _unbatch(piece)
        return *by, None, None


# --- which rows see which keys ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segments:
    """Segments of similar length side by side: token indices (S, L), and which are no padding; None: all are tokens."""

    index_SL: Tensor
    valid_SL: Tensor | None

    def take(self, tensor_TH: Tensor, padded_with: float | None = None) -> Tensor:
        """The segments' tokens as (S, H, L, ...); padding repeats a token unless a value is given."""
        rows = tensor_TH.index_select(0, self.index_SL.flatten()).unflatten(0, self.index_SL.shape)
        if padded_with is not None and self.valid_SL is not None:
            rows.masked_fill_(~self.valid_SL.view(*self.valid_SL.shape, *[1] * (rows.ndim - 2)), padded_with)
        return rows.transpose(1, 2)

    def put(self, tensor_TH: Tensor, rows_SHL: Tensor) -> None:
        """Write the tokens back to where they lie."""
        rows, index = rows_SHL.transpose(1, 2).flatten(0, 1), self.index_SL.flatten()
        if self.valid_SL is not None:
            rows, index = rows[self.valid_SL.flatten()], index[self.valid_SL.flatten()]
        tensor_TH.index_copy_(0, index, rows)


def _side_by_side(layout: Layout) -> Iterator[_Segments]:
    for index_SL, valid_SL in layout.buckets:
        yield _Segments(index_SL, valid_SL)


def _causal(part: _Segments, rules: Rules) -> Mask:
    """A segment's rows see their own token and earlier ones, at most as many as the window holds."""
    length = part.index_SL.shape[1]
    if rules.window is None or rules.window >= length:
        return "causal"
    position_L = torch.arange(length, device=part.index_SL.device)
    apart_LL = position_L[:, None] - position_L
    return (apart_LL >= 0) & (apart_LL < rules.window)


def _across(layout: Layout, window: int | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """What goes on from each shared segment, what it sees of that, and which row sees which key; None: all see all."""
    for rows, keys in layout.across:
        if window is None:
            yield rows, keys, None
            continue
        for block in _blocks(rows):
            position_L, begin = layout.positions[block], int(layout.positions[keys.start])
            first = keys.start + max(0, int(position_L.min()) - window + 1 - begin)
            seen = slice(first, keys.stop)
            if first < keys.stop:
                apart_LJ = position_L[:, None] - layout.positions[seen]
                yield block, seen, None if apart_LJ[:, 0].max() < window else apart_LJ < window


def _blocks(rows: slice) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, MASKED_ROWS):
        yield slice(start, min(start + MASKED_ROWS, rows.stop))


def _batch(tensor_LH: Tensor) -> Tensor:
    return tensor_LH.transpose(0, 1)[None]


def _unbatch(tensor_1HL: Tensor) -> Tensor:
    return tensor_1HL[0].transpose(0, 1)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _kernel(rules: Rules) -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Gradients]]:
    """torch's fused kernel, or plain products where it lacks a rule."""
    if rules.softcap is not None:
        return plain_attention.attend, plain_attention.gradients
    return _attend, _gradients


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask, rules: Rules) -> tuple[Tensor, Tensor]:
    if isinstance(mask, Tensor):
        return plain_attention.attend(query, key, value, mask, rules)
    return _flash(query, key, value, 0.0, mask == "causal", scale=rules.scale)


def _gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, mask: Mask, rules: Rules
) -> Gradients:
    if isinstance(mask, Tensor):
        return plain_attention.gradients(grad, query, key, value, out, lse, mask, rules)
    return _flash_backward(grad, query, key, value, out, lse, 0.0, mask == "causal", scale=rules.scale)


def _join(out_LHD: Tensor, lse_LH: Tensor, more_LHD: Tensor, more_lse_LH: Tensor) -> None:
    """Take the output over further keys into the output so far, in place."""
    share_LH1 = torch.sigmoid(more_lse_LH - lse_LH)[..., None]
    out_LHD.lerp_(more_LHD, share_LH1.expand_as(out_LHD))
    lse_LH.copy_(torch.logaddexp(lse_LH, more_lse_LH))
