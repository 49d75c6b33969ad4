"""A batch of sequences that grow by a token a step, with the model's key-value cache.

Axes: P prompts, B rows, O completions that go on from them, L positions (left padding, then the prompt, then what was
sampled; without what all prompts begin with, C tokens), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from grpo.experts.observe import routers_of
from grpo.forward import packs
from grpo.kernels.begun_attention import Beginning

PAD_ID = 0
"""Any valid id: the attention mask hides it."""

MOST_OPEN = 0.75
"""Share of open rows at which the ended ones are dropped: rows that idle cost a third at most, and where no rows split,
copies of the cache stay rare."""

LEAST_SHARED = 16
"""Tokens that prompts must have in common at their beginning for a pass of its own over them."""


@dataclass(frozen=True)
class Growing:
    """Rows between two steps: `logits_BV` predict the next token, which gets the positions `position_B`.

    `beginning` is what all rows begin with, held once; mask and cache are of what comes after it.
    `mask_BL` has room for every token to come and `length` of its columns count so far; None when no row is padded,
    which spares the model a mask. `cache` is the one part that a step changes in place.
    """

    cache: Cache
    beginning: Beginning | None
    mask_BL: Tensor | None
    length: int
    position_B: Tensor
    logits_BV: Tensor


@dataclass(frozen=True)
class Starts:
    """Completions that go on from rows of a batch, O from row `place_O` (on the CPU); several may share one."""

    growing: Growing
    place_O: Tensor


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
    """Read P prompts, padded on the left, with room for `room` tokens after them; a common beginning is read once."""
    device = next(model.parameters()).device
    common = _shared(model, prompts)
    beginning = _read(model, prompts[0][:common]) if common else None
    shared = 0 if beginning is None else common
    rests = [prompt[shared:] for prompt in prompts]
    longest = max(map(len, rests))
    padding_P = torch.tensor([longest - len(rest) for rest in rests], device=device)
    ids_PL = torch.tensor([[PAD_ID] * (longest - len(rest)) + list(rest) for rest in rests], device=device)
    column_L = torch.arange(longest + room, device=device)
    mask_PL = column_L >= padding_P[:, None] if padding_P.any() else None
    output = model(
        input_ids=ids_PL,
        attention_mask=None if mask_PL is None else mask_PL[:, :longest],
        position_ids=(column_L[:longest] - padding_P[:, None]).clamp(min=0) + shared,
        use_cache=True,
        logits_to_keep=1,
        **_begin(beginning),
    )
    position_P = longest - padding_P + shared
    return Growing(output.past_key_values, beginning, mask_PL, longest, position_P, output.logits[:, -1])


def _shared(model: nn.Module, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at least one before the end; 0 where they are not to be read once.

    That takes our attention, and a cache of all keys and values, not of windows or states. A router's choices are noted
    for every token of every prompt.
    """
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    common = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))
    if len(prompts) == 1 or common < LEAST_SHARED or not packs(model) or routers_of(model):
        return 0
    layers = DynamicCache(config=cast(Any, model).config).layers
    return common if all(type(layer) is DynamicLayer for layer in layers) else 0


def _read(model: nn.Module, ids_C: Sequence[int]) -> Beginning | None:
    """Read a beginning; None where the model's layers do not attend as it takes."""
    beginning = Beginning()
    ids_1C = torch.tensor([list(ids_C)], device=next(model.parameters()).device)
    model(input_ids=ids_1C, use_cache=False, logits_to_keep=1, **_begin(beginning))
    beginning.is_read = True
    return beginning if beginning.fits else None


def _begin(beginning: Beginning | None) -> dict[str, Beginning]:
    """What our attention is told beside its cache; other attentions do not know the word."""
    return {} if beginning is None else {"beginning": beginning}


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
        **_begin(growing.beginning),
    )
    return replace(growing, length=length, position_B=growing.position_B + 1, logits_BV=output.logits[:, -1])


def extend(model: nn.Module, starts: Starts, place_O: Tensor, token_O: Tensor) -> Starts:
    """Go on from the rows `place_O` with one token for each; equal tokens after one row stay one row.

    The given record is used up, because its cache becomes the new one's.
    """
    (parent_B, token_B), next_O = torch.stack([place_O, token_O]).unique(dim=1, return_inverse=True)
    growing, rows = starts.growing, len(starts.growing.position_B)
    if len(parent_B.unique()) == len(parent_B) > MOST_OPEN * rows:
        # Nothing is copied: every row goes on as one, and the few that have ended idle.
        token_B, next_O = torch.full((rows,), PAD_ID).index_put((parent_B,), token_B), place_O
    else:
        growing = _select(growing, parent_B)
    return Starts(grow(model, growing, token_B.to(growing.position_B.device)), next_O)


def _select(growing: Growing, row_B: Tensor) -> Growing:
    """The rows with the given indices, in that order, about to grow: an index may come several times or not at all."""
    row_B = row_B.to(growing.position_B.device)
    # A beam search's name for what every kind of cache layer can do.
    growing.cache.reorder_cache(row_B)  # type: ignore[arg-type]
    mask_BL = None if growing.mask_BL is None else growing.mask_BL[row_B]
    return replace(growing, mask_BL=mask_BL, position_B=growing.position_B[row_B])
