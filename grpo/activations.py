"""Less memory for more time: a layer's activations are computed again in the backward pass instead of kept."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.experts.observe import recompute_contexts
from grpo.types import UserError


def recompute_layers(model: nn.Module) -> None:
    """Have every decoder layer keep its input alone.

    transformers' own switch works in train mode alone, which would turn dropout on as well.

    Raises:
        UserError: the architecture has no layers that transformers would checkpoint.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"activations: recompute needs layers that transformers would checkpoint, {type(model).__name__} has none: "
            "set activations: keep"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)  # a partial of a method is copied with its layer


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=recompute_contexts, **kwargs)
