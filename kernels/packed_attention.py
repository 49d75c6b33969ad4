"""The attention of packed micro-batches, registered with transformers under `PACKED`.

A call with a `packing` (a Layout) attends along its segments, on a CPU by torch's kernel for each, on a GPU by Triton.
A call without (sampling with a cache, padded rows) is plain attention under transformers' mask. With a `beginning`,
rows hold only what comes after it.

Axes: T packed tokens, H heads, D head size.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo.kernels.begun_attention import Beginning, after_beginning, begun_attention
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
    beginning: Beginning | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention call: query (1, H, T, D), or (B, H, L, D) of rows; the result has heads behind tokens.

    Raises:
        NotImplementedError: the architecture's attention has a term that is unknown here.
    """
    _check_terms(module, kwargs)
    # Where a call lacks it (qwen2_moe), it stands in transformers' mask alone, which no packing has.
    window = sliding_window or getattr(module, "sliding_window", None)
    rules = Rules(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, window)
    if packing is None:
        if beginning is not None and not beginning.is_read:
            beginning.note(cast(Any, module).layer_idx, key, value)
        elif beginning is not None:
            shared = beginning.layers[cast(Any, module).layer_idx]
            if query.shape[2] == 1:
                return begun_attention(query, key, value, attention_mask, shared, rules), None
            key, value, attention_mask = after_beginning(key, value, attention_mask, query.shape[2], shared)
        return _plain_attention(module, query, key, value, attention_mask, rules, dropout, **kwargs), None
    if dropout:  # supervised training of the few architectures that drop attention weights
        return masked_attention(query, key, value, packing, rules, dropout), None
    return _attend_on(query)(query, key, value, packing, rules), None


def _plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    rules: Rules,
    dropout: float,
    **kwargs: Any,
) -> Tensor:
    """Over the keys that the mask shows, which holds the rules' window too."""
    if rules.softcap is not None:
        return capped_attention(query, key, value, mask, rules, dropout)
    if query.shape[2] == 1 and query.shape[1] > key.shape[1]:
        return one_token_attention(query, key, value, mask, rules.scale, dropout)
    return sdpa_attention_forward(module, query, key, value, mask, dropout, rules.scale, **kwargs)[0]


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
    return capped_attention(query, key, value, visible_TT, rules, dropout)


def one_token_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """A row's newest token attends to all before it: query heads that share a key head are that head's queries.

    So keys and values, many times larger than queries, are not repeated for every query head.
    """
    query = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
    out = nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    return out.flatten(1, 2)[:, None].contiguous()


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rules: Rules, dropout: float = 0.0
) -> Tensor:
    """Plain attention with a softcap, which torch's has not. Without a mask, the queries are the last of the keys."""
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scores = rules.score((query @ key.mT).to(torch.promote_types(query.dtype, torch.float32)))
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
