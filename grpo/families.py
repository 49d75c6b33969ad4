"""What differs between model architectures. Nothing outside this file asks which one a model has."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from grpo.types import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LATENT_ATTENTION = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
"""Multi-head latent attention has q_proj without a query rank, and q_a_proj and q_b_proj with one."""
MLP = ("gate_proj", "up_proj", "down_proj")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
"""The routed experts of a layer as transformers holds them: one tensor for all of them."""
LATENT_KERNEL = (512, 64)
"""kv_lora_rank and qk_rope_head_dim of vLLM's latent-attention kernels."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes of vLLM's attention kernel on a CPU."""


@dataclass(frozen=True)
class EngineOptions:
    """What vLLM must be told so that it computes what the architecture means: arguments and environment variables."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def no_engine_options(config: Any, on_cpu: bool) -> EngineOptions:
    """What most architectures need."""
    return EngineOptions()


def latent_attention_options(config: Any, on_cpu: bool) -> EngineOptions:
    """Multi-head latent attention in vLLM 0.32 on a CPU.

    Its own rotary kernel misreads the strided keys there (log-probabilities off by nats, no error), so torch's takes
    its place; and its kernels know one size of latents, so that others are expanded to plain multi-head attention.

    Raises:
        UserError: neither form has a kernel for the head size.
    """
    if not on_cpu:
        return EngineOptions()
    arguments = {"compilation_config": {"custom_ops": ["all", "-rotary_embedding"]}}
    if (config.kv_lora_rank, config.qk_rope_head_dim) == LATENT_KERNEL:
        return EngineOptions(arguments)
    head = config.qk_nope_head_dim + config.qk_rope_head_dim
    if head not in CPU_HEAD_SIZES:
        raise UserError(
            f"rollout.engine: vLLM serves latent attention on a CPU with kv_lora_rank 512 and qk_rope_head_dim 64, or "
            f"with qk_nope_head_dim + qk_rope_head_dim one of {', '.join(map(str, CPU_HEAD_SIZES))}, got {head}: "
            "change the model's heads, or set engine: transformers"
        )
    return EngineOptions(arguments, {"VLLM_MLA_DISABLE": "1"})


@dataclass(frozen=True)
class Family:
    """An architecture: which modules LoRA adapts, what its config must say, and how vLLM serves it.

    `not_lora_targets` are names of modules that peft takes for the fused experts, and would adapt those instead.
    `config_keys` are the keys that transformers leaves out of config.json and other programs route by, with the only
    value that transformers computes. `scratch_defaults` replace defaults of transformers that fit the published size
    of the architecture alone. `engine_options` of a config, on a CPU or not; `engine_lora`: whether vLLM can apply an
    adapter to all of `lora_targets`; `experts`: whether a router chooses experts, which rounding may choose otherwise.
    """

    lora_targets: tuple[str, ...] | str
    not_lora_targets: tuple[str, ...] = ()
    config_keys: Mapping[str, Any] = field(default_factory=dict)
    scratch_defaults: Mapping[str, Any] = field(default_factory=dict)
    engine_options: Callable[[Any, bool], EngineOptions] = no_engine_options
    engine_lora: bool = False
    experts: bool = False


DENSE = Family(lora_targets=ATTENTION + MLP, engine_lora=True)
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
    "qwen3_moe": Family(lora_targets=ATTENTION, not_lora_targets=MLP, experts=True),
    # DeepSeek-V3's router and shared experts around plain attention: what `grpo upcycle` makes of a dense model.
    "glm4_moe": Family(
        lora_targets=ATTENTION,
        not_lora_targets=MLP,
        experts=True,
        config_keys={"num_nextn_predict_layers": 0},
        scratch_defaults={"num_experts_per_tok": 2, "num_nextn_predict_layers": 0},
    ),
    "mixtral": Family(lora_targets=ATTENTION, not_lora_targets=MLP, experts=True),
    "deepseek_v2": Family(
        lora_targets=LATENT_ATTENTION,
        not_lora_targets=MLP,
        experts=True,
        config_keys={"scoring_func": "softmax"},
        engine_options=latent_attention_options,
        scratch_defaults={"q_lora_rank": None, "first_k_dense_replace": 1, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": Family(
        lora_targets=LATENT_ATTENTION,
        not_lora_targets=MLP,
        experts=True,
        # vLLM fails to load the router's bias without the first and silently routes by softmax without the second.
        # transformers builds no module for multi-token prediction, so a model made from scratch promises none.
        config_keys={
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "num_mtp_layers": 0,
            "num_nextn_predict_layers": 0,
        },
        engine_options=latent_attention_options,
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
