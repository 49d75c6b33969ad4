"""The attention of packed micro-batches, registered with transformers under `PACKED`.

A call with a `packing` (a Layout) attends along its segments, on a CPU by torch's kernel for each, on a GPU by Triton.
A call without (sampling with a cache, padded rows) is plain attention under transformers' mask.

Axes: T packed tokens, H heads, D head size.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo.kernels.layout import Layout
from grpo.kernels.plain_attention import Rules
from grpo.kernels.prefix_attention import prefix_attention

PACKED = "grpo_packed"

UNKNOWN_TERMS = ("s_aux", "position_bias", "head_mask", "indices")
"""What an architecture may add to the softmax that is not computed here: attention sinks, biases, masked heads, and the
keys that an indexer has chosen."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention call: query (1, H, T, D), result (1, T, H, D).

    Raises:
        NotImplementedError: the architecture's attention has a term that is unknown here.
    """
    _check_terms(module, kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packing is None:
        if softcap is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return capped_attention(query, key, value, attention_mask, scale, softcap, dropout), None
    # Where a call lacks it (qwen2_moe), it stands in transformers' mask alone, which no packing has.
    window = sliding_window or getattr(module, "sliding_window", None)
    rules = Rules(scale, softcap, window)
    if dropout:  # supervised training of the few architectures that drop attention weights
        return masked_attention(query, key, value, packing, rules, dropout), None
    return _attend_on(query)(query, key, value, packing, rules), None


def _attend_on(query: Tensor) -> Callable[..., Tensor]:
    """What computes segments where the query lies; without a kernel, or one in float64, one large mask does."""
    if query.device.type == "cpu":
        return prefix_attention
    if query.device.type == "cuda" and query.dtype != torch.float64 and find_spec("triton"):
        on_gpu: Callable[..., Tensor] = import_module("grpo.kernels.prefix_attention_triton").prefix_attention
        return on_gpu
    return masked_attention


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, rules: Rules, dropout: float = 0.0
) -> Tensor:
    """The reference: one attention over all T tokens under a (T, T) mask."""
    visible_TT = layout.visible(rules.window)[None, None]
    return capped_attention(query, key, value, visible_TT, rules.scale, rules.softcap, dropout)


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    dropout: float = 0.0,
) -> Tensor:
    """Plain attention with a softcap, which torch's has not. Without a mask, the queries are the last of the keys."""
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scores = (query @ key.mT).to(torch.promote_types(query.dtype, torch.float32)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        rows, columns = scores.shape[-2:]
        mask = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(columns - rows)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = nn.functional.dropout(scores.softmax(-1).to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


def _check_terms(module: nn.Module, kwargs: dict[str, Any]) -> None:
    unknown = [name for name in UNKNOWN_TERMS if kwargs.get(name) is not None]
    if unknown or not getattr(module, "is_causal", True):
        raise NotImplementedError(f"{type(module).__name__} attends with {', '.join(unknown) or 'no causal mask'}")


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
