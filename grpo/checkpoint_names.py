"""A policy's weights as `save_pretrained` would write them: the names and shapes that other programs load."""

from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion


@torch.no_grad()
def checkpoint_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by checkpoint name; adapters are added to copies of the weights they adapt, never in place.

    transformers keeps experts fused in memory and writes them one by one. A tied output layer is left out, as its
    embedding stands for it. Tensors may be those of the model: read them before it trains on.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    state = _without_copies(_merged_state(base) if isinstance(model, PeftModel) else dict(base.state_dict()))
    return revert_weight_conversion(base, state)  # type: ignore[arg-type]  # every model here is a PreTrainedModel


def _merged_state(base: nn.Module) -> dict[str, Tensor]:
    """Several adapters may lie around a module, each for one of its parameters."""
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    state: dict[str, Tensor] = {}
    for name, tensor in base.state_dict().items():
        owners = [prefix for prefix in _prefixes(name) if prefix in adapted]
        if not owners:
            state[name] = tensor
        elif name.startswith(f"{owners[-1]}.base_layer."):
            parameter = name.removeprefix(f"{owners[-1]}.base_layer.")
            around = [adapted[owner] for owner in owners]
            layers = [layer for layer in around if getattr(layer, "parameter_name", "weight") == parameter]
            state[f"{owners[0]}.{parameter}"] = _merged(layers[0], tensor) if layers else tensor
    return state


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _merged(layer: LoraLayer, weight: Tensor) -> Tensor:
    """The weight with its active adapters, summed in float32: a bfloat16 sum would lose the smaller part."""
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            total = total + cast(Any, layer).get_delta_weight(adapter).float()
    return total.to(weight.dtype)


def _without_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under the first of its names."""
    seen: set[tuple[int, torch.Size]] = set()
    kept = {}
    for name, tensor in state.items():
        place = tensor.data_ptr(), tensor.shape
        if place not in seen or tensor.numel() == 0:
            kept[name] = tensor
        seen.add(place)
    return kept
