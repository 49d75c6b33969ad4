"""What lies between a layer's matrix products, in fewer passes over memory and with less kept for the backward pass.

Axes: T tokens, D hidden units, F units of an MLP.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm as torch_rms_norm
from torch.nn.functional import silu

from grpo.kernels.remade import remake


def rms_norm(input: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """weight * input / sqrt(mean of squares over D + epsilon): input (..., D) in float32 or float64."""
    kept, kept_D = input.detach(), weight_D.detach()
    if input.device.type == "cuda":  # where torch has one kernel for it, and two for its gradient
        output = torch_rms_norm(input, weight_D.shape, weight_D, epsilon)
        return remake(output, lambda: torch_rms_norm(kept, kept_D.shape, kept_D, epsilon))
    output, scale = _RmsNorm.apply(input, weight_D, epsilon)
    return remake(output, lambda: (kept * scale).mul_(kept_D))


def gated_silu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up, of which the backward pass needs no more than gate and up."""
    kept_gate, kept_up = gate_TF.detach(), up_TF.detach()
    return remake(_GatedSilu.apply(gate_TF, up_TF), lambda: silu(kept_gate).mul_(kept_up))


class _RmsNorm(torch.autograd.Function):
    """The norm, and the factor (..., 1) of each row."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(input, dim=-1, keepdim=True)
        scale = length.square_().div_(input.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(input, weight_D, scale)
        ctx.mark_non_differentiable(scale)
        return torch.mul(input, scale).mul_(weight_D), scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        input, weight_D, scale = ctx.saved_tensors
        size = input.shape[-1]
        grad_TD, input_TD, scale_T1 = grad.reshape(-1, size), input.reshape(-1, size), scale.reshape(-1, 1)
        product_TD = grad_TD * input_TD
        by_weight_D = (scale_T1.mT @ product_TD)[0]
        pull_T1 = (product_TD @ weight_D)[:, None].mul_(scale_T1.pow(3)).div_(-size)
        by_input_TD = torch.mul(grad_TD, weight_D, out=product_TD).mul_(scale_T1).addcmul_(input_TD, pull_T1)
        return by_input_TD.view(input.shape), by_weight_D, None


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), silu(gate).mul_(grad)
