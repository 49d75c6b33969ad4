"""Tensors that the backward pass makes again instead of keeping them: cheap ones, of what is kept anyway."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

_RECIPE = "_grpo_recipe"


class _Recipe:
    """How a tensor is made, and the tensor while some of those that wait for it have not taken it."""

    def __init__(self, make: Callable[[], Tensor], version: int):
        self.make = make
        self.version = version
        self.waiting = 0
        self.made: Tensor | None = None

    def take(self) -> Tensor:
        """The tensor, made once for all that wait."""
        made = self.make() if self.made is None else self.made
        self.waiting -= 1
        self.made = made if self.waiting > 0 else None
        return made


def remake(tensor: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """The tensor, marked: within `remaking()`, autograd keeps `make` in its place. It must not hold the tensor."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        setattr(tensor, _RECIPE, _Recipe(make, tensor._version))
    return tensor


def remaking() -> AbstractContextManager[None]:
    """Forward passes inside keep, of marked tensors and views of them, no more than how they are made."""
    return torch.autograd.graph.saved_tensors_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> Any:
    whole = tensor if tensor._base is None else tensor._base
    recipe = getattr(whole, _RECIPE, None)
    if recipe is None or whole._version != recipe.version:  # one that was written to since is another tensor
        # Detached, since an output that held itself would never be freed; it shares the counter of versions.
        return tensor.detach(), tensor._version
    recipe.waiting += 1
    return recipe, tensor.size(), tensor.stride(), tensor.storage_offset()


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed[0], Tensor):
        return _unchanged(*packed)
    recipe, size, stride, offset = packed
    made: Tensor = recipe.take()
    return made.as_strided(size, stride, offset)


def _unchanged(tensor: Tensor, version: int) -> Tensor:
    """What autograd checks itself where no hooks keep its tensors."""
    if tensor._version != version:
        raise RuntimeError(
            "a tensor needed for the gradient has been modified by an inplace operation since the forward pass: its "
            f"shape is {list(tensor.shape)}, its version {tensor._version}, expected version {version}"
        )
    return tensor
