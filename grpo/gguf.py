"""From a GGUF file, as llama.cpp uses them, to a model folder."""

import importlib.util
import json
import logging
import struct
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from grpo.policy import Policy, save_policy
from grpo.pretrained import plain_generation_config
from grpo.types import UserError, one_line

MAGIC = b"GGUF"
UNREADABLE = (OSError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError, struct.error)
"""What transformers raises for a file that is cut short or holds a model it doesn't know."""
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Vocabularies that split numbers into digits before GPT-2's words (llama.cpp, llama-vocab.cpp); transformers forgets
it, and then tokenises "\\n\\n7" otherwise than the model was trained with."""
GPT2_WORDS = ("gpt-2", "default", "phi-2", "olmo")


def import_gguf(file: Path, out: Path) -> None:
    """Write the model and tokenizer of a GGUF file to the folder `out`, in float32, quantised weights as they decode.

    Raises:
        UserError: `file` is no GGUF file of a causal language model with a tokenizer, `out` holds something, or the
            package gguf is not installed.
    """
    _check(file, out)
    model, tokenizer = _read(file)
    model.generation_config = plain_generation_config(model, tokenizer)
    save_policy(Policy(model=model, tokenizer=tokenizer, path=str(file)), out)


def _check(file: Path, out: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError("import-gguf needs the package gguf: pip install 'grpo-train[gguf]'")
    if not file.is_file():
        raise UserError(f"{file}: no such file: give the path of a GGUF file")
    with file.open("rb") as stream:
        magic = stream.read(len(MAGIC))
    if magic != MAGIC:
        raise UserError(f"{file}: expected a GGUF file, which begins with {MAGIC!r}, got {magic!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: expected a new or empty folder, got one that holds something: choose another")


def _read(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    except UNREADABLE as error:
        raise UserError(f"{file}: transformers can't read this GGUF file: {one_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{file}: expected a tokenizer with an end token, got none: use another file of the model")
    _split_as_trained(file, tokenizer)
    return model, _without_foreign_tokens(tokenizer, model.config.vocab_size)


def _split_as_trained(file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put right, in place, how the tokenizer cuts text into words where transformers falls back to GPT-2's way."""
    from gguf import GGUFReader  # an optional package

    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is None or not isinstance(splitter, pre_tokenizers.ByteLevel):
        return
    name = field.contents()
    if name in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name not in GPT2_WORDS:
        logging.getLogger(__name__).warning("%s: word splitting %r is unknown: GPT-2's is used", file, name)


def _without_foreign_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> PreTrainedTokenizerBase:
    """Leave out GPT-2's <|endoftext|>, which transformers adds to a vocabulary without it: it has no embedding."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    own = [token for token in content["added_tokens"] if token["id"] < vocabulary]
    if own == content["added_tokens"]:
        return tokenizer
    ids = tokenizer.get_vocab()
    names = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content | {"added_tokens": own})),
        chat_template=tokenizer.chat_template,
        **{name: text for name, text in names.items() if ids[text] < vocabulary},
    )
