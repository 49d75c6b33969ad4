"""A linear layer whose three products run in block-scaled FP8: output, input's gradient and weight's gradient.

Each is a product along the tiles of both factors, so for the weight's gradient both are quantised along the tokens: the
input from what was kept of it in FP8, as DeepSeek-V3 does.

Axes: T tokens, K inputs, N outputs.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from grpo.kernels import fp8_blocks
from grpo.kernels.fp8_blocks import TILE, Scaled

FIRST_WITH_FP8 = (8, 9)
"""Compute capability of the first GPUs with units for E4M3."""


@cache
def has_fp8_units(device: torch.device) -> bool:
    """Whether products in FP8 are computed as such; elsewhere their rounding is imitated in float32."""
    if device.type != "cuda" or not find_spec("triton"):
        return False
    return torch.cuda.get_device_capability(device) >= FIRST_WITH_FP8


def fp8_linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias with the factors in FP8; the result has autocast's dtype where it is on, or the input's.

    The weight's gradient has the weight's own dtype: in float32 nothing of its sum is lost.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    with torch.autocast(kind, enabled=False):
        out_TN: Tensor = _Fp8Linear.apply(x.reshape(-1, x.shape[-1]), weight_NK, bias_N, dtype)
    return out_TN.view(*x.shape[:-1], len(weight_NK))


class _Fp8Linear(torch.autograd.Function):
    """(T, K) by (N, K) to (T, N)."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, dtype: torch.dtype) -> Tensor:
        blocks = _blocks_of(x_TK)
        x, weight = blocks.quantise(x_TK, 1), blocks.quantise(weight_NK, TILE)
        ctx.save_for_backward(*x[:2], *weight[:2])
        ctx.dtypes = x_TK.dtype, weight_NK.dtype, None if bias_N is None else bias_N.dtype
        out_TN = blocks.product(x, weight)
        return (out_TN if bias_N is None else out_TN + bias_N).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_out_TN: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        blocks = _blocks_of(by_out_TN)
        x_values, x_scales, weight_values, weight_scales = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            weight_KN = Scaled(weight_values, weight_scales, TILE).transposed()
            by_x = blocks.product(blocks.quantise(by_out_TN, 1), weight_KN).to(x_dtype)
        if ctx.needs_input_grad[1]:
            x_KT = blocks.quantise(fp8_blocks.dequantise(Scaled(x_values, x_scales, 1)).mT, 1)
            by_weight = blocks.product(blocks.quantise(by_out_TN.mT, 1), x_KT).to(weight_dtype)
        if bias_dtype is not None and ctx.needs_input_grad[2]:
            by_bias = by_out_TN.float().sum(0).to(bias_dtype)
        return by_x, by_weight, by_bias, None


def _blocks_of(x: Tensor) -> ModuleType:
    """Triton's kernels on GPUs with units for FP8, plain torch elsewhere."""
    return import_module("grpo.kernels.fp8_blocks_triton") if has_fp8_units(x.device) else fp8_blocks
