"""Puts functions of `kernels/` into a model, where they compute what its own modules compute."""

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from grpo.kernels.elementwise import gated_silu, rms_norm
from grpo.kernels.thin_linear import THIN, is_thin, thin_linear

CLOSE = 1e-5
"""Largest difference to a module's own output that rounding explains, relative to the output's largest value."""

Forward = Callable[[Any, Tensor], Tensor]


@torch.no_grad()
def fuse(model: nn.Module) -> None:
    """Replace the forward pass of RMS norms, gated MLPs and linear layers.

    A replacement is tried against the original on random numbers first; what differs, or has weights in half precision,
    stays as it is.
    """
    for module in model.modules():
        for forward in _candidates(module):
            if _agrees(module, forward):
                module.forward = MethodType(forward, module)  # copied with its module, where a closure would not be
                break


def _candidates(module: nn.Module) -> list[Forward]:
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight"):
        return [_norm(type(module).forward, 0.0), _norm(type(module).forward, 1.0)]
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
        return [_mlp]
    is_linear = type(module) is nn.Linear and module.weight.device.type == "cpu"
    return [_linear] if is_linear and "forward" not in vars(module) else []  # FP8 has put its own there


def _norm(own: Forward, shift: float) -> Forward:
    """A norm whose factor is its weight, or as in Gemma 1 + its weight. Half precision is left to its own forward."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        if hidden.dtype != self.weight.dtype or hidden.dtype.itemsize < 4:
            return own(self, hidden)
        epsilon = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        return rms_norm(hidden, self.weight + shift if shift else self.weight, epsilon)

    return forward


def _mlp(self: Any, hidden: Tensor) -> Tensor:
    return cast(Tensor, self.down_proj(gated_silu(self.gate_proj(hidden), self.up_proj(hidden))))


def _linear(self: Any, hidden: Tensor) -> Tensor:
    if hidden.dtype == self.weight.dtype and is_thin(hidden):
        return thin_linear(hidden, self.weight, self.bias)
    return nn.Linear.forward(self, hidden)


def _agrees(module: Any, forward: Forward) -> bool:
    weight = module.weight if hasattr(module, "weight") else getattr(module.gate_proj, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype.itemsize < 4:
        return False
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(THIN.start, weight.shape[-1], generator=generator, dtype=weight.dtype).to(weight.device)
    hidden[1] *= 1e-3  # so small that epsilon counts
    try:
        own = module(hidden)
        return _close(forward(module, hidden), own)
    except (AttributeError, TypeError, RuntimeError):
        return False


def _close(tensor: Tensor, own: Tensor) -> bool:
    return bool((tensor - own).abs().max() <= CLOSE * own.abs().max() != 0)
