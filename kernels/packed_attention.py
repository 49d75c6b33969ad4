"""Causal attention over sequences that are packed end to end: each one by itself, without a mask over all of them.

Registered with transformers under `PACKED`. A call that brings no lengths (decoding with a cache) is plain sdpa.

Axes: T packed tokens, S sequences of a bucket, L tokens of its longest, H heads, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "grpo_packed"

LONGEST_TO_SHORTEST = 1.25
"""Sequences of a bucket are padded to its longest: at most this factor more work than without."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention call: query (1, H, T, D), result (1, T, H, D).

    `packed_lengths` are the lengths of the packed sequences, in order. Without them, or where a window is shorter than
    a sequence, `attention_mask` says it all.
    """
    windowed = sliding_window is not None and packed_lengths is not None and max(packed_lengths) > sliding_window
    if packed_lengths is None or windowed:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    buckets = _buckets(packed_lengths, query.device)
    # Right padding needs no mask: a token attends to earlier ones only, and padding is later than all of them.
    attended = []
    for index_SL, valid_SL in buckets:
        rows = _rows(query, index_SL), _rows(key, index_SL), _rows(value, index_SL)
        attended_SLHD, _ = sdpa_attention_forward(module, *rows, None, is_causal=True, **kwargs)
        attended.append(attended_SLHD[valid_SL])
    order_T = torch.cat([index_SL[valid_SL] for index_SL, valid_SL in buckets]).argsort()
    return torch.cat(attended).index_select(0, order_T)[None], None


def masked_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """The reference: one attention over all T tokens under a block-diagonal causal mask."""
    owner_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    mask_TT = (owner_T[:, None] == owner_T[None]).tril()
    return sdpa_attention_forward(module, query, key, value, mask_TT[None, None])[0]


def _rows(tensor: Tensor, index_SL: Tensor) -> Tensor:
    """The packed tokens (1, H, T, D) as padded rows (S, H, L, D)."""
    rows = tensor[0].index_select(1, index_SL.flatten())
    return rows.unflatten(1, index_SL.shape).transpose(0, 1)


def _buckets(lengths: Sequence[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Token indices (S, L) of sequences of similar length, and which of them are no padding."""
    lengths_S = torch.tensor(lengths)
    starts_S = lengths_S.cumsum(0) - lengths_S
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[i] <= LONGEST_TO_SHORTEST * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    buckets = []
    for group in groups:
        offset_L = torch.arange(lengths[group[-1]])
        valid_SL = offset_L < lengths_S[group, None]
        index_SL = (starts_S[group, None] + offset_L).where(valid_SL, starts_S[group, None])
        buckets.append((index_SL.to(device), valid_SL.to(device)))
    return buckets


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
