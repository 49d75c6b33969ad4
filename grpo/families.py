"""What differs between model architectures. Nothing outside this file asks which one a model has."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from grpo.types import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LATENT_ATTENTION = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
"""Multi-head latent attention has q_proj without a query rank, and q_a_proj and q_b_proj with one."""
MLP = ("gate_proj", "up_proj", "down_proj")
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
"""The fused tensors of all routed experts of a layer, which are parameters and no modules."""
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
class Router:
    """How transformers turns a router's logits over experts into the weights of the chosen ones.

    `scores` of the logits become weights, with `normalise` divided by their sum over the chosen experts, times
    `scale`. `has_bias`: experts are chosen by score + `e_score_correction_bias`, a buffer that the weights never see
    (DeepSeek-V3, arXiv 2412.19437, eq. 16).
    """

    scores: Literal["sigmoid", "softmax"]
    normalise: bool = True
    scale: float = 1.0
    has_bias: bool = False


def mixtral_router(config: Any) -> Router:
    """Softmax, renormalised over the chosen experts."""
    return Router("softmax")


def qwen_router(config: Any) -> Router:
    """Softmax, renormalised where the config says so."""
    return Router("softmax", normalise=config.norm_topk_prob)


def deepseek_v2_router(config: Any) -> Router:
    """Softmax; transformers scales the weights and reads no `norm_topk_prob`."""
    return Router("softmax", normalise=False, scale=config.routed_scaling_factor)


def deepseek_v3_router(config: Any) -> Router:
    """Sigmoid, with a bias for the choice."""
    return Router("sigmoid", config.norm_topk_prob, config.routed_scaling_factor, has_bias=True)


@dataclass(frozen=True)
class Family:
    """An architecture: which modules LoRA adapts, what its config must say, and how vLLM serves it.

    `lora_experts` are parameters that LoRA adapts beside the modules.
    `not_lora_targets` are names of modules that peft takes for the fused experts, and would adapt those instead.
    `config_keys` are the keys that transformers leaves out of config.json and other programs route by, with the only
    value that transformers computes. `scratch_defaults` replace defaults of transformers that fit the published size
    of the architecture alone. `engine_options` of a config, on a CPU or not; `engine_lora`: whether vLLM can apply an
    adapter to all of `lora_targets`, `engine_mtp`: whether it knows what the weights of multi-token prediction are;
    `router` of a config, where one chooses experts.
    """

    lora_targets: tuple[str, ...] | str
    lora_experts: tuple[str, ...] = ()
    not_lora_targets: tuple[str, ...] = ()
    config_keys: Mapping[str, Any] = field(default_factory=dict)
    scratch_defaults: Mapping[str, Any] = field(default_factory=dict)
    engine_options: Callable[[Any, bool], EngineOptions] = no_engine_options
    engine_lora: bool = False
    engine_mtp: bool = False
    router: Callable[[Any], Router] | None = None

    @property
    def experts(self) -> bool:
        """Whether a router chooses experts, which rounding may choose otherwise."""
        return self.router is not None


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
    "gemma4_text": DENSE,
    "phi3": Family(lora_targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    # LoRA adapts attention and routed experts: peft has no name for shared experts and dense layers beside those.
    "qwen2_moe": Family(ATTENTION, EXPERTS, not_lora_targets=MLP, router=qwen_router),
    "qwen3_moe": Family(ATTENTION, EXPERTS, not_lora_targets=MLP, router=qwen_router),
    "mixtral": Family(ATTENTION, EXPERTS, not_lora_targets=MLP, router=mixtral_router),
    # DeepSeek-V3's router and shared experts around plain attention: what `grpo upcycle` makes of a dense model.
    "glm4_moe": Family(
        ATTENTION,
        EXPERTS,
        not_lora_targets=MLP,
        router=deepseek_v3_router,
        config_keys={"num_nextn_predict_layers": 0},
        scratch_defaults={"num_experts_per_tok": 2, "num_nextn_predict_layers": 0},
    ),
    "deepseek_v2": Family(
        LATENT_ATTENTION,
        EXPERTS,
        not_lora_targets=MLP,
        router=deepseek_v2_router,
        config_keys={"scoring_func": "softmax"},
        engine_options=latent_attention_options,
        # Without groups vLLM's router on a CPU fails an assertion; one group is none.
        scratch_defaults={
            "q_lora_rank": None,
            "first_k_dense_replace": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "deepseek_v3": Family(
        LATENT_ATTENTION,
        EXPERTS,
        not_lora_targets=MLP,
        router=deepseek_v3_router,
        engine_mtp=True,
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


def positions(config: Any) -> int | None:
    """How many tokens the longest sequence of a transformers config's model has; None where nothing bounds it.

    LongRoPE (Phi-3 and Phi-4-mini, arXiv 2402.13753) turns every sequence of a batch otherwise as soon as one is longer
    than the original length, and vLLM those of a whole engine, so that length is the bound: up to it, both agree.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = (rope, *(one for one in rope.values() if isinstance(one, Mapping)))  # some have one a type of layer
    long = [kind.get("original_max_position_embeddings") for kind in kinds if kind.get("rope_type") == "longrope"]
    bounds = [getattr(text, "max_position_embeddings", None), *long]
    return min((bound for bound in bounds if bound is not None), default=None)


def positions_said(config: Any) -> str:
    """The same in words, with the reason where the config promises more."""
    room, promised = positions(config), getattr(config.get_text_config(), "max_position_embeddings", None)
    why = "" if room == promised else ", of LongRoPE's original length, beyond which sequences change each other"
    return f"{room} positions{why}"


def write_config_keys(config: Any) -> None:
    """Add to a transformers config, in place, the keys of its family that it lacks."""
    for key, value in family_of(config).config_keys.items():
        if getattr(config, key, None) is None:
            setattr(config, key, value)
