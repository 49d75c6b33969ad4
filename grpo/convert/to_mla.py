"""From grouped-query attention to DeepSeek's multi-head latent attention, measured on a text.

Only attention is approximated; everything else of the model, experts too, is copied as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from grpo.convert.calibrate import latent_moments, moments
from grpo.convert.dense import check_plain, head_size, same_settings
from grpo.convert.latent import Attention, Sizes, factorise, latent_weights, up_projection
from grpo.convert.text import Window, perplexity, read_windows
from grpo.convert.weights import Tensors, TensorWriter, check_new, local_folder, write_surroundings
from grpo.families import latent_attention_options, write_config_keys
from grpo.files import atomic_folder
from grpo.pretrained import load_config, load_tokenizer
from grpo.types import UserError

SOURCES = ("llama", "mistral", "glm4_moe")
EXPERT_KEYS = (
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "routed_scaling_factor",
    "norm_topk_prob",
    "n_group",
    "topk_group",
    "first_k_dense_replace",
)
LATENT_EPSILON = 1e-6
"""Of the norm of latents in transformers; the model's own, which vLLM has there, is no other at latents of size 1."""
REPLACED = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Latents:
    """The attention to make, and the text that shows what matters in it.

    `rope` and `nope` are the numbers of a query head with and without rotation; left out, half a head turns and none is
    left out of the rest. The last `held_out` of the text's windows measure perplexity, the first of the others, up to
    `calibration_tokens`, are what the factorisation sees.
    """

    rank: int
    text: Path
    rope: int | None = None
    nope: int | None = None
    window: int = 512
    calibration_tokens: int = 16_384
    perplexity_tokens: int = 16_384
    held_out: float = 0.2


@dataclass(frozen=True)
class Converted:
    """Perplexity on the held-out windows, and the numbers that a token leaves in the cache, before and after."""

    perplexity_before: float
    perplexity_after: float
    tokens: int
    cached_before: int
    cached_after: int
    note: str


def to_mla(src: str, out: Path, settings: Latents) -> Converted:
    """Write the converted model of a folder or hub name to `out`, whole or not at all.

    Raises:
        UserError: `src` is no model that can be converted, `out` holds something, or a number or the text does not fit.
    """
    check_new(out)
    source = load_config(src)
    check_source(src, source)
    sizes = check_sizes(settings, source)
    config = latent_config(source, sizes)
    folder = local_folder(src)
    calibration, held_out = _parts(settings, folder)
    model = _model(folder)
    before = perplexity(model, held_out)
    layers = _factorised(model, calibration, source, sizes)
    del model
    with atomic_folder(out) as unfinished:
        writer = TensorWriter(unfinished)
        for name, tensor in _converted(Tensors(folder), layers):
            writer.add(name, tensor)
        writer.close()
        write_surroundings(folder, unfinished, config)
        after = perplexity(_model(unfinished), held_out)
    tokens = sum(map(len, held_out))
    return Converted(before, after, tokens, cached_values(source), cached_values(config), _engine_note(config))


def cached_values(config: PreTrainedConfig) -> int:
    """Numbers that a token must leave in the cache: in each layer a latent and a rotary key, or keys and values."""
    layers = config.num_hidden_layers
    if getattr(config, "kv_lora_rank", None) is not None:
        return layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    return layers * 2 * config.num_key_value_heads * head_size(config)


def _engine_note(config: PreTrainedConfig) -> str:
    """What stands against sampling the model with vLLM on a CPU."""
    try:
        latent_attention_options(config, on_cpu=True)
    except UserError as error:
        return str(error)
    return ""


# --- settings ---------------------------------------------------------------------------------------------------------


def check_source(src: str, config: PreTrainedConfig) -> None:
    """Raise UserError for a model whose attention can't be written as DeepSeek's."""
    if config.model_type not in SOURCES:
        raise UserError(
            f"{src}: expected a model of the types {', '.join(SOURCES)}, got {config.model_type}: DeepSeek's attention "
            "has no place for biases or norms of queries and keys"
        )
    check_plain(src, config)
    if getattr(config, "use_qk_norm", False):
        raise UserError(f"{src}: expected attention without norms of queries and keys, got use_qk_norm: choose another")
    rope = config.rope_parameters
    if rope["rope_type"] != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"{src}: expected rotary embeddings of the whole head without scaling, got {rope}: choose another model"
        )


def check_sizes(settings: Latents, config: PreTrainedConfig) -> Sizes:
    """The sizes with their defaults. Raises UserError for the first number that does not fit."""
    head = head_size(config)
    most = 2 * config.num_key_value_heads * head + 1
    rope = head // 2 if settings.rope is None else settings.rope
    nope = (head if rope < head else head // 2) if settings.nope is None else settings.nope
    for option, fits, expected, got in (
        (
            "rank",
            2 <= settings.rank <= most,
            f"from 2 to {most}, one more than it replaces",
            settings.rank,
        ),
        ("rope", rope >= 2 and rope % 2 == 0 and head % rope == 0, f"an even divisor of the head's {head}", rope),
        ("nope", 1 <= nope <= head, f"from 1 to the head's {head}", nope),
        ("window", settings.window >= 2, "at least 2 tokens", settings.window),
        ("calibration-tokens", settings.calibration_tokens >= 1, "at least 1", settings.calibration_tokens),
        ("perplexity-tokens", settings.perplexity_tokens >= 1, "at least 1", settings.perplexity_tokens),
        ("held-out", 0 < settings.held_out < 1, "above 0 and below 1", settings.held_out),
    ):
        if not fits:
            raise UserError(f"--{option}: expected {expected}, got {got}: choose another number")
    return Sizes(settings.rank, rope, nope)


def latent_config(source: PreTrainedConfig, sizes: Sizes) -> PreTrainedConfig:
    """The config of a DeepSeek-V3 with the source's experts, or with dense layers alone."""
    dense = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
    dense |= {"moe_intermediate_size": source.intermediate_size, "first_k_dense_replace": source.num_hidden_layers}
    experts = {key: getattr(source, key) for key in EXPERT_KEYS} if source.model_type == "glm4_moe" else dense
    config = AutoConfig.for_model(
        "deepseek_v3",
        **same_settings(source),
        **experts,
        architectures=["DeepseekV3ForCausalLM"],
        num_key_value_heads=source.num_attention_heads,
        q_lora_rank=None,
        kv_lora_rank=sizes.rank,
        qk_rope_head_dim=sizes.rope,
        qk_nope_head_dim=sizes.nope,
        v_head_dim=head_size(source),
        rope_parameters={"rope_type": "default", "rope_theta": source.rope_parameters["rope_theta"]},
        num_nextn_predict_layers=0,
    )
    write_config_keys(config)
    return config


# --- weights ----------------------------------------------------------------------------------------------------------


def _parts(settings: Latents, folder: Path) -> tuple[list[Window], list[Window]]:
    """Windows to look at, and windows to measure on."""
    windows = read_windows(settings.text, load_tokenizer(str(folder)), settings.window)
    held_out = max(1, round(settings.held_out * len(windows)))
    seen = windows[:-held_out][: max(1, settings.calibration_tokens // settings.window)]
    return seen, windows[-held_out:][: max(1, settings.perplexity_tokens // settings.window)]


def _model(folder: Path) -> PreTrainedModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval().to(device)


def _factorised(
    model: PreTrainedModel, windows: Sequence[Window], config: PreTrainedConfig, sizes: Sizes
) -> list[dict[str, Tensor]]:
    """The attention weights of every layer by DeepSeek's names, in float32."""
    head = head_size(config)
    frequencies_F = config.rope_parameters["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float64) / head)
    latents = [
        factorise(_attention(layer, head), seen, sizes, frequencies_F)
        for layer, seen in zip(model.get_decoder().layers, moments(model, windows), strict=True)
    ]
    after = latent_moments(model, windows, [latent.down_RD for latent in latents], LATENT_EPSILON)
    return [
        {name: weight.float() for name, weight in latent_weights(latent, up_projection(latent, *seen), head).items()}
        for latent, seen in zip(latents, after, strict=True)
    ]


def _attention(layer: torch.nn.Module, head: int) -> Attention:
    parts: Mapping[str, Tensor] = {
        name: layer.get_submodule(f"self_attn.{name}").weight.detach().double().cpu()  # type: ignore[operator]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    query, key, value = (parts[name].unflatten(0, (-1, head)) for name in REPLACED)
    return Attention(query, key, value, parts["o_proj"].unflatten(1, (-1, head)))


def _converted(tensors: Tensors, layers: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """All tensors by name: those of attention anew, the others as they are."""
    dtype = tensors["model.embed_tokens.weight"].dtype
    for name in tensors.names():
        if not any(f".self_attn.{part}." in name for part in REPLACED):
            yield name, tensors[name]
    for number, layer in enumerate(layers):
        for part, weight in layer.items():
            yield f"model.layers.{number}.self_attn.{part}.weight", weight.to(dtype)
    if "lm_head.weight" not in tensors:
        yield "lm_head.weight", tensors["model.embed_tokens.weight"].clone()
