"""transformers' from_pretrained, with one plain sentence for everything that can be wrong with a model."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from grpo.families import write_config_keys
from grpo.loading import any_tokenizer, check_exists, said_plainly
from grpo.model_settings import ModelSettings
from grpo.mtp import LAYERS_KEY, complete_predictor, resize_config
from grpo.mtp_files import passed_over, stored_parts
from grpo.types import UserError


def load_tokenizer(path: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer that knows its end token. Text is decoded as it is, without tidying of spaces.

    Raises:
        UserError: there is no tokenizer at `path`, or it has no end token.
    """
    tokenizer = any_tokenizer(path, trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: expected a tokenizer with an end token, got none: set eos_token in its config")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked and never trained on
    return tokenizer


def load_config(path: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load the config of a causal language model. Raises UserError when there is none at `path`."""
    check_exists(path)
    with said_plainly(path, "model config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    made_for = getattr(config, "architectures", None) or []
    if config.is_encoder_decoder or (made_for and not trust_remote_code and known.isdisjoint(made_for)):
        raise UserError(
            f"{path}: expected a causal language model, got {', '.join(made_for) or config.model_type}: choose a "
            "model whose architecture ends in ForCausalLM"
        )
    write_config_keys(config)
    return config


def load_model(path: str, settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load a whole model that fits its tokenizer, in the dtype of the settings, with its predictor if it is kept.

    Raises:
        UserError: there is no causal language model at `path`, or weights of it are missing.
    """
    config = load_config(path, settings.trust_remote_code)
    with said_plainly(path, "model"):
        stored = stored_parts(path, config)
    parts = {} if settings.mtp == "drop" else stored
    behind_trunk = rf"\.layers\.{getattr(config, 'num_hidden_layers', None)}\."
    if parts:
        resize_config(config, 1)
    elif getattr(config, LAYERS_KEY, 0):
        setattr(config, LAYERS_KEY, 0)  # what the folder promises and does not hold, or what is dropped
    with said_plainly(path, "model"), passed_over(config, behind_trunk):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            output_loading_info=True,
            use_safetensors=True,  # other files of weights are pickles
        )
    model, loading = loaded
    # transformers would fill these with random numbers and go on.
    lacking = sorted(loading["missing_keys"]) + sorted(str(key[0]) for key in loading["mismatched_keys"])
    if lacking:
        raise UserError(
            f"{path}: expected all weights of {type(model).__name__}, got none that fit {lacking[0]} and "
            f"{len(lacking) - 1} more: choose a complete checkpoint"
        )
    if parts:
        complete_predictor(model, parts)
    _check_vocabulary(path, model, tokenizer)
    model.generation_config = plain_generation_config(model, tokenizer)
    return model


def _check_vocabulary(path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    needed = max(tokenizer.get_vocab().values()) + 1
    if needed > rows:
        raise UserError(
            f"{path}: expected an embedding for each of the tokenizer's {needed} tokens, got {rows}: the tokenizer "
            "belongs to another model, or the embedding was not resized for it"
        )


def plain_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The special token ids alone of what a model was published with."""
    return special_tokens_alone(model.generation_config, tokenizer)


def special_tokens_alone(published: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The special token ids alone.

    What else a published generation config holds (top_k, a repetition penalty) would silently change what an engine
    samples, and some published ones cannot be saved.
    """
    end = None if published is None else published.eos_token_id
    ends = [tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])]
    known = list(dict.fromkeys(end for end in ends if end is not None))
    ids = model_token_ids(tokenizer)
    return GenerationConfig(**(ids | {"eos_token_id": known if len(known) > 1 else known[0]}))


def model_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The special token ids that a model's config repeats from its tokenizer."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
