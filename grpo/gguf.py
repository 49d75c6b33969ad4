"""From a GGUF file, as llama.cpp uses them, to a model folder."""

import importlib.util
import logging
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from grpo.policy import Policy, save_policy
from grpo.pretrained import plain_generation_config
from grpo.types import UserError

MAGIC = b"GGUF"
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
    except (OSError, LookupError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: transformers can't read this GGUF file: {reason[:300]}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{file}: expected a tokenizer with an end token, got none: use another file of the model")
    _split_as_trained(file, tokenizer)
    return model, tokenizer


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
