"""A policy's weights as `save_pretrained` would write them: the names and shapes that other programs load."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from grpo.mtp import predictor_of, predictor_prefix

BASE = "base_layer."
"""What peft puts before the names of what it adapts."""


@torch.no_grad()
def checkpoint_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by checkpoint name; adapters are added to copies of the weights they adapt, never in place.

    transformers keeps experts fused in memory and writes them one by one. A tied output layer is left out, as its
    embedding stands for it, and so is a predictor: an engine's model is the trunk. Tensors may be those of the model:
    read them before it trains on.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    state = _without_copies(_merged_state(base) if isinstance(model, PeftModel) else dict(base.state_dict()))
    behind_trunk = None if predictor_of(model) is None else predictor_prefix(model)
    if behind_trunk is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(behind_trunk)}
    return revert_weight_conversion(base, state)  # type: ignore[arg-type]  # every model here is a PreTrainedModel


def _merged_state(base: nn.Module) -> dict[str, Tensor]:
    """Several adapters may lie around a module, each for one of its parameters."""
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    state: dict[str, Tensor] = {}
    for name, tensor in base.state_dict().items():
        owner = next((prefix for prefix in _prefixes(name) if prefix in adapted), None)
        if owner is None:
            state[name] = tensor
        elif name.startswith(f"{owner}.{BASE}"):
            # Adapters of several parameters of one module lie around each other: each has its base_layer.
            parameter, layers = name.removeprefix(f"{owner}."), [owner]
            while parameter.startswith(BASE):
                parameter = parameter.removeprefix(BASE)
                layers.append(f"{layers[-1]}.{BASE[:-1]}")
            if ".lora_" not in f".{parameter}":
                adapters = [adapted[layer] for layer in layers if layer in adapted]
                state[f"{owner}.{parameter}"] = _merged(adapters, parameter, tensor)
    return state


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _merged(layers: Sequence[LoraLayer], parameter: str, weight: Tensor) -> Tensor:
    """A parameter with its active adapters, summed in float32: a bfloat16 sum would lose the smaller part."""
    total = weight
    for layer in layers:
        if getattr(layer, "parameter_name", "weight") == parameter:
            for adapter in layer.active_adapters:
                if adapter in layer.lora_A:
                    total = total.float() + cast(Any, layer).get_delta_weight(adapter).float()
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
