"""One attention and its gradient in plain matrix products: the reference, and the way for what fused kernels lack.

Axes: B batch, H query heads, K heads of keys and values, L rows, J keys, D head size.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BLOCK = 256
"""Rows computed at a time, so that scores need little memory."""

Mask = Tensor | Literal["causal"] | None
"""Which key a row sees, (L, J); or itself and earlier ones; or all."""

Gradients = tuple[Tensor, Tensor, Tensor]
"""By queries, keys and values."""


@dataclass(frozen=True)
class Rules:
    """Softmax of scale * q k, squashed to `softcap * tanh(. / softcap)`, over at most the last `window` positions."""

    scale: float
    softcap: float | None = None
    window: int | None = None

    def score(self, products: Tensor) -> Tensor:
        """The scores that queries and keys with these products have."""
        scores = products * self.scale
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Mask, rules: Rules) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, D) and log-sum-exp (B, H, L) of query (B, H, L, D) over key and value (B, K, J, D).

    A row that sees no key gives 0, and the lowest number as its log-sum-exp.
    """
    parts = []
    for rows in _row_blocks(query):
        scores, _ = _scores(query[:, :, rows], key, _mask_of(mask, rows, query, key), rules)
        limits = torch.finfo(scores.dtype)
        top = scores.amax(-1, keepdim=True).clamp_(min=limits.min)
        weights = scores.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True).clamp_(min=limits.tiny)
        parts.append((_ungroup(weights @ value[:, :, None]).div_(_ungroup(total)), _ungroup(total.log() + top)[..., 0]))
    out, lse = zip(*parts, strict=True)
    return torch.cat(out, 2), torch.cat(lse, 2)


def gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, mask: Mask, rules: Rules
) -> Gradients:
    """Gradients of an attention, or of these keys' part of one whose output and log-sum-exp over all keys are given.

    Rows whose `lse` is infinite are padding and add nothing.
    """
    by_query, by_key, by_value = [], torch.zeros_like(key), torch.zeros_like(value)
    for rows in _row_blocks(query):
        heads = key.shape[1]
        some_query, some_grad = _group(query[:, :, rows], heads), _group(grad[:, :, rows], heads)
        scores, squashed = _scores(query[:, :, rows], key, _mask_of(mask, rows, query, key), rules)
        weights = scores.sub_(_group(lse[:, :, rows, None], heads)).exp_()
        delta = (some_grad * _group(out[:, :, rows], heads)).sum(-1, keepdim=True)
        by_value += (weights.mT @ some_grad).sum(2)
        by_score = (some_grad @ value[:, :, None].mT).sub_(delta).mul_(weights).mul_(rules.scale)
        if squashed is not None:
            by_score.mul_(squashed.square_().neg_().add_(1))
        by_query.append(_ungroup(by_score @ key[:, :, None]))
        by_key += (by_score.mT @ some_query).sum(2)
    return torch.cat(by_query, 2), by_key, by_value


def _scores(query: Tensor, key: Tensor, mask_LJ: Tensor | None, rules: Rules) -> tuple[Tensor, Tensor | None]:
    """Scores (B, K, H / K, L, J), -inf where a key is not seen, and the softcap's tanh for its gradient."""
    scores = (_group(query, key.shape[1]) @ key[:, :, None].mT).mul_(rules.scale)
    squashed = None
    if rules.softcap is not None:
        squashed = scores.div_(rules.softcap).tanh_()
        scores = squashed * rules.softcap
    return scores if mask_LJ is None else scores.masked_fill_(~mask_LJ, -torch.inf), squashed


def _row_blocks(query: Tensor) -> list[slice]:
    return [slice(begin, begin + BLOCK) for begin in range(0, query.shape[2], BLOCK)]


def _mask_of(mask: Mask, rows: slice, query: Tensor, key: Tensor) -> Tensor | None:
    if mask == "causal":
        row_L = torch.arange(query.shape[2], device=query.device)[rows]
        return row_L[:, None] >= torch.arange(key.shape[2], device=key.device)
    return mask[rows] if isinstance(mask, Tensor) else None


def _group(tensor: Tensor, heads: int) -> Tensor:
    """Query heads by the heads of the keys that they share: (B, K, H / K, L, ...)."""
    return tensor.unflatten(1, (heads, -1))


def _ungroup(tensor: Tensor) -> Tensor:
    return tensor.flatten(1, 2)
