"""Attention over shared-prefix groups through torch's FlexAttention, for GPUs: blocks that nobody sees are skipped."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from grpo.kernels.layout import Layout
from grpo.kernels.plain_attention import Rules


def flexible_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, rules: Rules) -> Tensor:
    """Attend as `prefix_attention` does, in the tensors' own dtype."""
    out = _compiled(query.device.type)(
        query,
        key,
        value,
        score_mod=None if rules.softcap is None else _capped(rules.softcap),
        block_mask=_block_mask(layout, rules.window),
        scale=rules.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()


@cache
def _compiled(device: str) -> Any:
    """The fused kernel; on a CPU the plain one, which has no backward pass and serves tests of the mask."""
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


@cache
def _capped(softcap: float) -> Any:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _block_mask(layout: Layout, window: int | None) -> BlockMask:
    """Made once a micro-batch and window, and kept with the layout."""
    if window not in layout.block_masks:
        group_T, branch_T, position_T = layout.branches

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (group_T[query] == group_T[key]) & ((branch_T[key] == 0) | (branch_T[query] == branch_T[key]))
            near = position_T[query] - position_T[key] < (window or layout.tokens + 1)
            return same & near & (key <= query)

        layout.block_masks[window] = create_block_mask(sees, None, None, layout.tokens, layout.tokens, layout.device)
    return layout.block_masks[window]
