"""What differs between model architectures. Nothing outside this file asks which one a model has."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LATENT_ATTENTION = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
"""Multi-head latent attention has q_proj without a query rank, and q_a_proj and q_b_proj with one."""
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """An architecture: which modules LoRA adapts, and what its config must say.

    `not_lora_targets` are names of modules that peft takes for the fused experts, and would adapt those instead.
    `config_keys` are the keys that transformers leaves out of config.json and other programs route by, with the only
    value that transformers computes. `scratch_defaults` replace defaults of transformers that fit the published size
    of the architecture alone.
    """

    lora_targets: tuple[str, ...] | str
    not_lora_targets: tuple[str, ...] = ()
    config_keys: Mapping[str, Any] = field(default_factory=dict)
    scratch_defaults: Mapping[str, Any] = field(default_factory=dict)


DENSE = Family(lora_targets=ATTENTION + MLP)
UNKNOWN = Family(lora_targets="all-linear")

FAMILIES: Mapping[str, Family] = {
    "llama": DENSE,
    "mistral": DENSE,
    "qwen2": DENSE,
    "qwen3": DENSE,
    "gemma": DENSE,
    "gemma2": DENSE,
    "gemma3_text": DENSE,
    "phi3": Family(lora_targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    # Experts are fused into one tensor a layer, not modules, so LoRA adapts the attention alone.
    "qwen3_moe": Family(lora_targets=ATTENTION, not_lora_targets=MLP),
    "mixtral": Family(lora_targets=ATTENTION, not_lora_targets=MLP),
    "deepseek_v2": Family(
        lora_targets=LATENT_ATTENTION,
        not_lora_targets=MLP,
        config_keys={"scoring_func": "softmax"},
        scratch_defaults={"q_lora_rank": None, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": Family(
        lora_targets=LATENT_ATTENTION,
        not_lora_targets=MLP,
        # vLLM fails to load the router's bias without the first and silently routes by softmax without the second.
        # transformers builds no module for multi-token prediction, so a model made from scratch promises none.
        config_keys={
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "num_mtp_layers": 0,
            "num_nextn_predict_layers": 0,
        },
        scratch_defaults={
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "num_mtp_layers": 0,
        },
    ),
}


def family_of(config: Any) -> Family:
    """The family of a transformers config; an unknown one counts as a plain dense model, and the log says so once."""
    return FAMILIES.get(config.model_type) or _unknown(config.model_type)


@cache
def _unknown(model_type: str) -> Family:
    logging.getLogger(__name__).warning("model type %s is unknown: treated as a plain dense model", model_type)
    return UNKNOWN


def write_config_keys(config: Any) -> None:
    """Add to a transformers config, in place, the keys of its family that it lacks."""
    for key, value in family_of(config).config_keys.items():
        if getattr(config, key, None) is None:
            setattr(config, key, value)
