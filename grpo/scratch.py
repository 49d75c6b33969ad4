"""Models and tokenizers made from scratch, without a hub."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from grpo.families import FAMILIES, UNKNOWN, Family, write_config_keys
from grpo.model_settings import InitSettings, ModelSettings, TokenizerSettings
from grpo.policy import Policy
from grpo.pretrained import load_config, model_token_ids, plain_generation_config
from grpo.types import UserError, one_line

PAD, EOS = "<pad>", "<eos>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
PREDICTOR_KEYS = ("num_nextn_predict_layers", "num_mtp_layers")
BAD_CONFIG = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What transformers and torch raise for config values that are wrong or don't fit together."""


def make_policy(init: InitSettings, seed: int) -> Policy:
    """A model with random weights and its tokenizer, in float32. The same settings and seed give the same weights.

    Raises:
        UserError: the config has a key or value that the architecture can't use, or the tokenizer can't be made.
    """
    tokenizer = make_tokenizer(init.tokenizer)
    config = _config(init, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _built(init, config)
    model.generation_config = plain_generation_config(model, tokenizer)
    return Policy(model=model, tokenizer=tokenizer, path=init.architecture)


def make_config(init: InitSettings) -> PreTrainedConfig:
    """The transformers config of a model made from scratch. Raises UserError as `make_policy` does."""
    return _config(init, make_tokenizer(init.tokenizer))


def model_config(settings: ModelSettings) -> PreTrainedConfig:
    """The transformers config of a recipe's model, read or made. Raises UserError where there is none."""
    if settings.path is not None:
        return load_config(settings.path, settings.trust_remote_code)
    assert settings.init is not None  # the recipe has either a path or init
    return make_config(settings.init)


# --- the model --------------------------------------------------------------------------------------------------------


def _config(init: InitSettings, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    config_class = _config_class(init.architecture)
    family = FAMILIES.get(init.architecture, UNKNOWN)
    _check_keys(init, config_class, family)
    values = _defaults(init.config, config_class, family) | init.config | model_token_ids(tokenizer)
    values["vocab_size"] = len(tokenizer)
    try:
        config = config_class(**values)
    except BAD_CONFIG as error:
        raise _wrong(init, error) from None
    write_config_keys(config)
    return config


def _config_class(architecture: str) -> type[PreTrainedConfig]:
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model.init.architecture: expected a causal language model of transformers, got {architecture!r}"
            f"{_nearest(architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}: try llama, qwen3 or deepseek_v3"
        )
    return CONFIG_MAPPING[architecture]


def _check_keys(init: InitSettings, config_class: type[PreTrainedConfig], family: Family) -> None:
    """Refuse what transformers would swallow silently."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    known = {field.name for field in dataclasses.fields(config_class)} - common
    known |= set(config_class.attribute_map) | set(config_class.attribute_map.values())
    if "rope_parameters" in known:
        known |= {"rope_theta", "rope_scaling"}
    for key, value in init.config.items():
        where = f"model.init.config.{key}"
        if key in FROM_TOKENIZER:
            raise UserError(f"{where}: comes from the tokenizer, got {value!r}: leave it out")
        if key in family.config_keys:
            if value != family.config_keys[key]:
                instead = "say model.mtp: add instead" if key in PREDICTOR_KEYS else "leave it out"
                raise UserError(f"{where}: expected {family.config_keys[key]!r}, got {value!r}: {instead}")
        elif key not in known:
            raise UserError(f"{where}: no such key of {init.architecture}{_nearest(key, known)}: correct it")


def _defaults(given: dict[str, Any], config_class: type[PreTrainedConfig], family: Family) -> dict[str, Any]:
    """Values for what the recipe leaves out and transformers would fill with those of a published model."""
    aliases = [pair for pair in config_class.attribute_map.items() if not set(pair).isdisjoint(given)]
    spoken_for = set(given).union(*aliases)
    names = {field.name for field in dataclasses.fields(config_class)}
    defaults = dict(family.scratch_defaults)
    hidden, heads = given.get("hidden_size"), given.get("num_attention_heads")
    if "initializer_range" in names and isinstance(hidden, int) and hidden > 0:
        # Nguyen & Salazar 2019 (1910.05895), section 2.2: 0.02 is for widths near 1000 and starves a small model.
        defaults["initializer_range"] = math.sqrt(2 / (5 * hidden))
    if "num_key_value_heads" in names and isinstance(heads, int):
        defaults["num_key_value_heads"] = heads
    return {key: value for key, value in defaults.items() if key not in spoken_for}


def _built(init: InitSettings, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        is_causal = _looks_back_only(model)
    except BAD_CONFIG as error:
        raise _wrong(init, error) from None
    if not is_causal:
        raise UserError(
            f"model.init.architecture: expected a causal language model, got {init.architecture!r}, whose tokens see "
            "what follows them: try llama, qwen3 or deepseek_v3"
        )
    return model


@torch.no_grad()
def _looks_back_only(model: PreTrainedModel) -> bool:
    """Whether a token's logits are the same whatever comes after it."""
    model.eval()
    one, other = (model(input_ids=torch.tensor([[0, 1, last]]), use_cache=False).logits[0, 1] for last in (0, 1))
    return torch.allclose(one, other, atol=1e-5)


def _wrong(init: InitSettings, error: Exception) -> UserError:
    return UserError(f"model.init.config: {init.architecture} can't be built from it: {one_line(error)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (nearest: {close[0]})" if close else ""


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def make_tokenizer(settings: TokenizerSettings) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes, so that any text survives encoding and decoding; it adds no BOS token.

    In kind bytes a token's id is its byte's value.

    Raises:
        UserError: the corpus is missing or too small, or a special token is impossible.
    """
    tokenizer = _bytes() if settings.kind == "bytes" else _trained(settings)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, EOS])
    # Not special in the library's sense: decoding drops those, and rewards must see <think>.
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in settings.special_tokens])
    _check_special_tokens(tokenizer, settings.special_tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={symbol: byte for byte, symbol in enumerate(_symbols())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def _symbols() -> list[str]:
    """The character that stands for each byte 0..255: itself where printable, one beyond 255 where not (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _trained(settings: TokenizerSettings) -> Tokenizer:
    assert settings.corpus is not None  # the recipe gives both for kind bpe
    assert settings.vocab_size is not None
    own = len({PAD, EOS, *settings.special_tokens})
    if settings.vocab_size < 256 + own:
        raise UserError(
            f"model.init.tokenizer.vocab_size: expected at least {256 + own} (256 bytes and {own} special tokens), "
            f"got {settings.vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size - own, initial_alphabet=_symbols(), show_progress=False
    )
    tokenizer.train_from_iterator(_lines(Path(settings.corpus)), trainer)
    if tokenizer.get_vocab_size() + own < settings.vocab_size:
        raise UserError(
            f"model.init.tokenizer: {settings.corpus} is too small for vocab_size {settings.vocab_size}, got only "
            f"{tokenizer.get_vocab_size() + own} tokens from it: give more text or lower vocab_size"
        )
    return tokenizer


def _lines(corpus: Path) -> list[str]:
    try:
        return corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.init.tokenizer.corpus: expected a UTF-8 text file, got {corpus}: {error}") from None


def _check_special_tokens(tokenizer: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if texts.count(text) > 1 or text in (PAD, EOS) or len(ids) != 1 or tokenizer.decode(ids) != text:
            raise UserError(
                f"model.init.tokenizer.special_tokens: expected distinct texts of two or more characters other than "
                f"{PAD} and {EOS}, got {text!r}: choose another"
            )
