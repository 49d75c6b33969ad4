"""Models that give a text one number: transformers' sequence classifiers, loaded and run over padded rows.

Axes: R rows (texts), L tokens of the longest, K outputs of a classifier.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from grpo.families import write_config_keys
from grpo.loading import any_tokenizer, check_exists, said_plainly
from grpo.types import UserError

MADE_ANEW = "pooler"
"""Part of an encoder's trunk that belongs to the head: masked language models are published without it."""


@dataclass(frozen=True)
class Rows:
    """R texts as rows of token ids, padded on the right to the longest, and which of the tokens are theirs."""

    token_ids_RL: Tensor
    valid_RL: Tensor


# --- loading ----------------------------------------------------------------------------------------------------------


def load_scalar_model(
    path: str, dtype: str, new_head: bool = False, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a sequence classifier with its tokenizer, in eval mode.

    With `new_head` any model of transformers that has a classifier does: it gets one scalar output, random where it
    has none of its own, drawn by torch's generator.

    Raises:
        UserError: there is none at `path`, or weights of it are missing.
    """
    tokenizer = _with_an_end(any_tokenizer(path, trust_remote_code), path)
    own = {"num_labels": 1} if new_head else {}
    with said_plainly(path, "model config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **own)
    _check_kind(path, config, new_head)
    write_config_keys(config)
    with said_plainly(path, "reward model"), _without_a_report():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            use_safetensors=True,  # other files of weights are pickles
        )
    model, loading = loaded
    _check_complete(path, model, loading["missing_keys"], new_head)
    text = model.config.get_text_config()
    text.pad_token_id = text.pad_token_id if text.pad_token_id is not None else tokenizer.pad_token_id
    return model.eval(), tokenizer


@contextmanager
def _without_a_report() -> Iterator[None]:
    """transformers warns of every weight that is new or not used; here a new head is meant, and others are errors."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _with_an_end(tokenizer: PreTrainedTokenizerBase, path: str) -> PreTrainedTokenizerBase:
    """An encoder's separator ends its texts."""
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token is None:
        raise UserError(f"{path}: expected a tokenizer with an end token, got none: set eos_token in its config")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_is_classifier(path: str, trust_remote_code: bool = False) -> None:
    """Raise UserError unless there is a sequence classifier at `path`."""
    check_exists(path)
    with said_plainly(path, "model config"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    _check_kind(path, config, new_head=False)


def _check_kind(path: str, config: Any, new_head: bool) -> None:
    made_for = getattr(config, "architectures", None) or []
    classifies = any("ForSequenceClassification" in name or "RewardModel" in name for name in made_for)
    if made_for and not classifies and not new_head:
        raise UserError(
            f"{path}: expected a reward model or another sequence classifier, got {', '.join(made_for)}: choose one "
            "whose architecture ends in ForSequenceClassification, or train one in a stage of kind reward_model"
        )


def _check_complete(path: str, model: PreTrainedModel, missing: Sequence[str], new_head: bool) -> None:
    trunk = f"{model.base_model_prefix}."
    lacking = [key for key in missing if not new_head or (key.startswith(trunk) and MADE_ANEW not in key)]
    if lacking:
        raise UserError(
            f"{path}: expected all weights of {type(model).__name__}, got none for {sorted(lacking)[0]} and "
            f"{len(lacking) - 1} more: choose a complete checkpoint"
        )


# --- running ----------------------------------------------------------------------------------------------------------


def padded(texts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Rows:
    """Rows of token ids. `pad_id` must be the model's own: a decoder is read at the last token that is another one."""
    longest = max(map(len, texts))
    rows = [[*text, *[pad_id] * (longest - len(text))] for text in texts]
    valid = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    return Rows(torch.tensor(rows, device=device), torch.tensor(valid, device=device))


def pad_id_of(model: nn.Module) -> int:
    """What the model pads with."""
    config: Any = model.config
    return int(config.get_text_config().pad_token_id)


def within_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches, longest first, each of at most `budget` tokens with its padding, or of one row.

    >>> within_budget([2, 5, 4, 1], 10)
    [[1, 2], [0, 3]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def outputs(model: nn.Module, rows: Rows) -> Tensor:
    """The classifier's outputs (R, K) in float32, read where the model itself reads them."""
    logits: Tensor = model(input_ids=rows.token_ids_RL, attention_mask=rows.valid_RL).logits
    return logits.float()


def log_odds(logits_RK: Tensor, output: int, independent: bool) -> Tensor:
    """log(p / (1 - p)) of one output: the number itself where it is the only one, or its label is independent.

    Outputs 1, 2, 3 of exclusive labels give the last one 3 - log(e^1 + e^2) = 0.687.
    """
    chosen_R = logits_RK[:, output]
    if independent or logits_RK.shape[1] == 1:
        return chosen_R
    others = [k for k in range(logits_RK.shape[1]) if k != output]
    return chosen_R - logits_RK[:, others].logsumexp(-1)


@torch.no_grad()
def scores(model: nn.Module, texts: Sequence[Sequence[int]], budget: int, output: int = 0) -> list[float]:
    """The log-odds of every text, in the texts' order, computed in eval mode within a budget of tokens at a time."""
    was_training = model.training
    model.eval()
    config: Any = model.config
    found = [0.0] * len(texts)
    device = next(model.parameters()).device
    for batch in within_budget([len(text) for text in texts], budget):
        logits_RK = outputs(model, padded([texts[i] for i in batch], pad_id_of(model), device))
        values_R = log_odds(logits_RK, output, config.problem_type == "multi_label_classification")
        for index, value in zip(batch, values_R.tolist(), strict=True):
            found[index] = value
    model.train(was_training)
    return found
