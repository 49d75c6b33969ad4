"""A text in windows of tokens, and how well a model predicts it."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from grpo.batch import pack
from grpo.forward import target_logprobs
from grpo.templates import leading_special_ids
from grpo.types import TokenSequence, UserError

Window = tuple[int, ...]


def read_windows(file: Path, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Window]:
    """A text file's tokens in windows of `length`, each after the special tokens that begin a text; the rest is left.

    Raises:
        UserError: the file can't be read, or is shorter than two windows.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text: expected a UTF-8 text file, got {file}: {error}") from None
    start = leading_special_ids(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    own = length - len(start)
    windows = [(*start, *ids[first : first + own]) for first in range(0, len(ids) - own + 1, own)]
    if len(windows) < 2:
        raise UserError(
            f"--text: expected at least two windows of {length} tokens, got {len(ids)} tokens in {file}: give more "
            "text or a smaller --window"
        )
    return windows


@torch.no_grad()
def perplexity(model: nn.Module, windows: Sequence[Window]) -> float:
    """e to the mean negative log-probability of every token of the windows but their first."""
    total = 0.0
    for window in windows:
        tokens = pack([TokenSequence(window[:1], window[1:])], next(model.parameters()).device)
        total -= target_logprobs(model, tokens).sum().item()
    return math.exp(total / sum(len(window) - 1 for window in windows))
