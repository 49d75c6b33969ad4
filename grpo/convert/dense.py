"""Which dense models can be converted, and what an architecture of another name must be told to compute the same."""

from typing import Any

from transformers import PreTrainedConfig

from grpo.types import UserError

SAME_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "hidden_act",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""What has one name and one meaning in Llama's descendants, GLM-4-MoE and DeepSeek-V3."""

DENSE = ("llama", "mistral", "qwen2", "qwen3")


def same_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The keys that another architecture takes over as they are. The output layer is no longer tied to the embedding:

    vLLM ties it in neither of the architectures that come out of a conversion, and would sample from an empty layer.
    """
    return {key: getattr(config, key) for key in SAME_KEYS} | {"tie_word_embeddings": False, "dtype": config.dtype}


def head_size(config: PreTrainedConfig) -> int:
    """Numbers of a key."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def is_dense_latent(config: PreTrainedConfig) -> bool:
    """A DeepSeek-V3 without experts, as `grpo to-mla` makes it."""
    return config.model_type == "deepseek_v3" and config.first_k_dense_replace >= config.num_hidden_layers


def check_plain(src: str, config: PreTrainedConfig) -> None:
    """Refuse what the architectures that a conversion ends in don't compute.

    Raises:
        UserError: a bias where they have none, another activation, or attention through a sliding window.
    """
    for name, is_there, expected in (
        ("mlp_bias", getattr(config, "mlp_bias", False), "a feed-forward network without biases"),
        ("attention_bias", getattr(config, "attention_bias", False), "an output projection of attention without bias"),
        ("hidden_act", config.hidden_act != "silu", "the activation silu"),
        ("sliding_window", _has_window(config), "full attention in every layer"),
    ):
        if is_there:
            raise UserError(f"{src}: expected {expected}, got {name} {getattr(config, name)}: choose another model")


def _has_window(config: PreTrainedConfig) -> bool:
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        return "sliding_attention" in layers
    return config.model_type == "mistral" and config.sliding_window is not None
