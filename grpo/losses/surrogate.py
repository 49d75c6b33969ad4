"""The clipped policy-gradient surrogate that GRPO, Dr. GRPO, DAPO and GSPO share. N: trained tokens."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Ratios stop at e^20: beyond it a token's gradient is noise, and exp would overflow float32 at e^88."""


@dataclass(frozen=True)
class TokenLoss:
    """One loss per token, to be minimised, and the tokens on which the loss's clip acted (each loss says how)."""

    loss_N: Tensor
    clipped_N: Tensor


def clipped_surrogate(
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    delta: float | None = None,
) -> TokenLoss:
    """PPO's -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), written as -A r with r bounded on the side A asks for.

    A > 0 bounds r above by 1 + clip_high. A < 0 bounds it below by 1 - clip_low, and above by `dual_clip`
    (arXiv 1912.09729). `delta` bounds it above for every A (INTELLECT-2, arXiv 2505.07291). For A = 1, clip 0.2 and
    r = 1.5 the loss is -1.2 and has no gradient. `clipped_N` marks the tokens that lost their gradient so.
    """
    low_N, high_N = _log_bounds(advantages_N.to(log_ratio_N.dtype), clip_low, clip_high, dual_clip, delta)
    # The bounds lie on the logarithm, so that exp never sees a value whose gradient would be 0 * inf.
    loss_N = -advantages_N * log_ratio_N.clamp(min=low_N, max=high_N).exp()
    outside_N = (log_ratio_N < low_N) | (log_ratio_N > high_N)
    return TokenLoss(loss_N, outside_N & (advantages_N != 0))


def one_sided(advantages_N: Tensor, log_low: float, log_high: float, log_max: float) -> tuple[Tensor, Tensor]:
    """Bounds of a log ratio: (-inf, log_high] where A > 0, [log_low, log_max] elsewhere."""
    number = advantages_N.new_tensor
    rising_N = advantages_N > 0
    low_N = torch.where(rising_N, number(-math.inf), number(log_low))
    return low_N, torch.where(rising_N, number(log_high), number(log_max))


def _log_bounds(
    advantages_N: Tensor, clip_low: float, clip_high: float, dual_clip: float | None, delta: float | None
) -> tuple[Tensor, Tensor]:
    highest = math.exp(MAX_LOG_RATIO) if delta is None else delta
    low = math.log(1 - clip_low) if clip_low < 1 else -math.inf
    high = math.log(min(1 + clip_high, highest))
    return one_sided(advantages_N, low, high, math.log(min(dual_clip or highest, highest)))
