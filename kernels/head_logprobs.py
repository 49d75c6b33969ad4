"""Log-probabilities and entropy straight from hidden states: logits exist for one tile of the vocabulary at a time.

The backward pass computes each tile once more, so that memory is what a tile takes, whatever tokens and vocabulary are.

Axes: N tokens, D hidden units, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grpo.kernels import logprob_tiles
from grpo.kernels.logprob_tiles import RowGradient, RowState

TILE = 1 << 20
"""Logits of a tile at most (4 MB in float32): what passes over them stays in the processor's caches."""
GPU_TILE = 1 << 25
"""The same on a GPU, whose products must be large to keep it busy: 128 MB."""

NARROWEST = 512
"""Vocabulary of a tile at least: products of narrower matrices are slow."""


@dataclass(frozen=True)
class LogitRules:
    """What becomes of a raw logit z: softcap * tanh(scale * z / softcap) / temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def __call__(self, raw_NV: Tensor) -> Tensor:
        """Apply to raw logits, in place where nothing needs their gradient."""
        raw_NV = raw_NV.to(torch.promote_types(raw_NV.dtype, torch.float32))
        if self.softcap is not None:
            return torch.tanh(raw_NV * (self.scale / self.softcap)) * (self.softcap / self.temperature)
        factor = self.scale / self.temperature
        return raw_NV if factor == 1 else raw_NV * factor

    def slope(self, logits_NV: Tensor) -> Tensor | float:
        """The derivative by the raw logits, from what they became."""
        factor = self.scale / self.temperature
        if self.softcap is None:
            return factor
        return (logits_NV * (self.temperature / self.softcap)).square_().neg_().add_(1).mul_(factor)


class TokenScores(NamedTuple):
    """Of each of N tokens: its log-probability, its distribution's entropy in nats, and the highest probability in it.

    The last carries no gradient.
    """

    logprobs_N: Tensor
    entropy_N: Tensor
    likeliest_N: Tensor


def head_scores(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_ids_N: Tensor, rules: LogitRules
) -> TokenScores:
    """The scores of a linear head's targets. Products run in autocast's dtype where it is on, sums in float32."""
    kind = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
    with torch.autocast(kind, enabled=False):
        return TokenScores(*_HeadScores.apply(hidden_ND.to(dtype), weight_VD, bias_V, target_ids_N, rules))


def module_scores(
    hidden_ND: Tensor, head: Callable[[Tensor], Tensor], target_ids_N: Tensor, rules: LogitRules
) -> TokenScores:
    """As `head_scores` for a head of any kind, such as one with LoRA: it is called for some tokens at a time, twice."""

    def scores(some_ND: Tensor, some_ids_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logprobs_NV = rules(head(some_ND)).log_softmax(-1)
        chosen_N = logprobs_NV.gather(1, some_ids_N[:, None]).squeeze(1)
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
        return chosen_N, entropy_N, logprobs_NV.detach().amax(-1).exp()

    size = tokens_at_once(head, hidden_ND)
    parts = [
        checkpoint(scores, some_ND, some_ids_N, use_reentrant=False)
        for some_ND, some_ids_N in zip(hidden_ND.split(size), target_ids_N.split(size), strict=True)
    ]
    return TokenScores(*map(torch.cat, zip(*parts, strict=True)))


@torch.no_grad()
def tokens_at_once(head: Callable[[Tensor], Tensor], hidden_ND: Tensor) -> int:
    """Whose logits, all at once, are few. Autocast must not keep this call's weights, which have no gradient."""
    vocabulary = head(hidden_ND[:1]).shape[-1]
    torch.clear_autocast_cache()
    return max(1, max(8 * TILE, _tile(hidden_ND)) // vocabulary)


class _HeadScores(torch.autograd.Function):
    """Log-probability, entropy and highest probability of (N, D) under (V, D), tile by tile."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_ids_N: Tensor, rules: LogitRules
    ) -> tuple[Tensor, Tensor, Tensor]:
        like_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.promote_types(hidden_ND.dtype, torch.float32))
        state = RowState.empty(like_N)
        absorb = _tiles_of(hidden_ND).absorb
        for first, last in _tiles(hidden_ND, len(weight_VD)):
            logits_NV = rules(_raw(hidden_ND, weight_VD[first:last], None if bias_V is None else bias_V[first:last]))
            state = absorb(state, logits_NV, target_ids_N, first)
        entropy_N, likeliest_N = state.entropy(), state.likeliest()
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_ids_N, state.log_total(), entropy_N)
        ctx.rules = rules
        ctx.mark_non_differentiable(likeliest_N)
        return state.logprobs(), entropy_N, likeliest_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, logprob_N: Tensor, entropy_N: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        hidden_ND, weight_VD, bias_V, target_ids_N, log_total_N, entropy_value_N = ctx.saved_tensors
        rows = RowGradient(logprob_N, entropy_N, log_total_N, entropy_value_N)
        tile_gradient = _tiles_of(hidden_ND).tile_gradient
        by_hidden_ND = torch.zeros_like(hidden_ND, dtype=log_total_N.dtype)
        by_weight_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        by_bias_V = torch.empty_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        for first, last in _tiles(hidden_ND, len(weight_VD)):
            part_VD = weight_VD[first:last].to(hidden_ND.dtype)
            logits_NV = ctx.rules(_raw(hidden_ND, part_VD, None if bias_V is None else bias_V[first:last]))
            slope = ctx.rules.slope(logits_NV)
            gradient_NV = tile_gradient(logits_NV, rows, target_ids_N, first)
            gradient_NV = gradient_NV if isinstance(slope, float) and slope == 1 else gradient_NV.mul_(slope)
            if by_bias_V is not None:
                by_bias_V[first:last] = gradient_NV.sum(0)
            gradient_NV = gradient_NV.to(hidden_ND.dtype)
            by_hidden_ND += gradient_NV @ part_VD
            if by_weight_VD is not None:
                _product_into(by_weight_VD[first:last], gradient_NV.mT, hidden_ND)
        return by_hidden_ND.to(hidden_ND.dtype), by_weight_VD, by_bias_V, None, None


def _tile(hidden_ND: Tensor) -> int:
    return GPU_TILE if hidden_ND.device.type == "cuda" else TILE


def _tiles(hidden_ND: Tensor, vocabulary: int) -> list[tuple[int, int]]:
    """First and last + 1 token id of each tile."""
    width = max(NARROWEST, _tile(hidden_ND) // max(len(hidden_ND), 1))
    return [(first, min(first + width, vocabulary)) for first in range(0, vocabulary, width)]


def _raw(hidden_ND: Tensor, part_VD: Tensor, part_V: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(
        hidden_ND, part_VD.to(hidden_ND.dtype), None if part_V is None else part_V.to(hidden_ND.dtype)
    )


def _product_into(place_VD: Tensor, left_VN: Tensor, right_ND: Tensor) -> None:
    if place_VD.dtype == right_ND.dtype:
        torch.mm(left_VN, right_ND, out=place_VD)
    else:
        place_VD.copy_(left_VN @ right_ND)


def _tiles_of(hidden_ND: Tensor) -> ModuleType:
    """What works on tiles: Triton's kernels on a GPU, plain torch elsewhere and where there is no Triton."""
    if hidden_ND.device.type == "cuda" and find_spec("triton"):
        return import_module("grpo.kernels.logprob_tiles_triton")
    return logprob_tiles
