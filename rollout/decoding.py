"""A batch of sequences that grow by a token a step, with the model's key-value cache.

Axes: P prompts, B rows, L positions (left padding, then the prompt, then what was sampled), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Cache

PAD_ID = 0
"""Any valid id: the attention mask hides it."""

MOST_OPEN = 0.75
"""Share of open rows at which the ended ones are dropped: rows that idle cost a third at most, copies of the cache
stay rare."""


@dataclass(frozen=True)
class Growing:
    """Rows between two steps: `logits_BV` predict the next token, which gets the positions `position_B`.

    `mask_BL` has room for every token to come and `length` of its columns count so far; None when no row is padded,
    which spares the model a mask. `cache` is the one part that a step changes in place.
    """

    cache: Cache
    mask_BL: Tensor | None
    length: int
    position_B: Tensor
    logits_BV: Tensor


@dataclass(frozen=True)
class Sampled:
    """What a wave of R rows sampled. A row's tokens (of T) count up to `length_R`, `stopped_R`: they end by themselves.

    `drafts_R3` are the row's forward passes after the prompt, those that had a draft, and the drafts that were right;
    None where nothing was drafted.
    """

    tokens_RT: Tensor
    logprobs_RT: Tensor
    length_R: Tensor
    stopped_R: Tensor
    drafts_R3: Tensor | None = None


@contextmanager
def sampling_mode(model: nn.Module, precision: Literal["fp32", "bf16"]) -> Iterator[None]:
    """No gradients, no dropout, the learner's precision; afterwards every module is in the mode it had before.

    `no_grad`, not `inference_mode`: buffers that a model makes on the way (scaled rotary frequencies) must stay
    usable in training. Eval mode also keeps gradient checkpointing from dropping the cache.
    """
    modes = [(module, module.training) for module in model.modules()]
    device_type = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        for module, training in modes:
            module.training = training


def prefill(model: nn.Module, prompts: Sequence[Sequence[int]], room: int) -> Growing:
    """Read P prompts, padded on the left, with room for `room` tokens after them."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    padding_P = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    ids_PL = torch.tensor([[PAD_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    column_L = torch.arange(longest + room, device=device)
    mask_PL = column_L >= padding_P[:, None] if padding_P.any() else None
    output = model(
        input_ids=ids_PL,
        attention_mask=None if mask_PL is None else mask_PL[:, :longest],
        position_ids=(column_L[:longest] - padding_P[:, None]).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    return Growing(output.past_key_values, mask_PL, longest, longest - padding_P, output.logits[:, -1])


def grow(model: nn.Module, growing: Growing, token_B: Tensor) -> Growing:
    """Append one token to each row."""
    length = growing.length + 1
    output = model(
        input_ids=token_B[:, None],
        attention_mask=None if growing.mask_BL is None else growing.mask_BL[:, :length],
        position_ids=growing.position_B[:, None],
        past_key_values=growing.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return replace(growing, length=length, position_B=growing.position_B + 1, logits_BV=output.logits[:, -1])


def select(growing: Growing, row_B: Tensor) -> Growing:
    """The rows with the given indices, in that order; an index may come several times or not at all.

    The given record is used up, because its cache becomes the new one's.
    """
    row_B = row_B.to(growing.position_B.device)
    # A beam search's name for what every kind of cache layer can do.
    growing.cache.reorder_cache(row_B)  # type: ignore[arg-type]
    return replace(
        growing,
        mask_BL=None if growing.mask_BL is None else growing.mask_BL[row_B],
        position_B=growing.position_B[row_B],
        logits_BV=growing.logits_BV[row_B],
    )
