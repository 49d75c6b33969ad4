"""A policy with its predictor, and the caches of both, for rows of a batch that advance by one token or by two.

Trunk and predictor have caches of the same columns: column c of the predictor's holds the input that is made of the
trunk's hidden state c and the token after it. A column that holds a rejected draft is masked in both.

Axes: P prompts, B rows, K columns read at once, L columns (left padding, prompt, what came after), D hidden units, V
vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from grpo.forward import logit_rules
from grpo.mtp import plain_model, predicting_decoder, predictor_input, predictor_of
from grpo.rollout.decoding import PAD_ID
from grpo.types import UserError


def check_can_draft(model: nn.Module) -> None:
    """Raise UserError when the policy has no predictor, or a cache whose columns cannot be masked one by one."""
    base = plain_model(model)
    if predictor_of(base) is None:
        raise UserError(
            "rollout.speculative: the policy has no layer of multi-token prediction to draft with: set model.mtp: add "
            "and train it in an sft stage, or leave speculative out"
        )
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers):
        raise UserError(
            f"rollout.speculative: {type(base).__name__} keeps windows or states in place of all keys and values, and "
            "a rejected draft can't be taken out of them: leave speculative out"
        )


@dataclass(frozen=True)
class DraftBatch:
    """Rows between two passes: `token_B`, at `position_B`, is their newest token, which the trunk has not read.

    The trunk's cache has `length` columns. The predictor's lacks the last K, whose inputs are `hidden_BKD` and
    `next_BK`; `last_B` says which of them is a row's last. `row_B` are the caller's names of the rows, on the CPU. A
    pass changes the caches in place, and its caller the mask.
    """

    row_B: Tensor
    trunk: Cache
    predictor: Cache
    mask_BL: Tensor
    length: int
    token_B: Tensor
    position_B: Tensor
    hidden_BKD: Tensor
    next_BK: Tensor
    last_B: Tensor

    def select(self, place_B: Tensor) -> "DraftBatch":
        """The rows at the given places. The given record is used up."""
        there_B = place_B.to(self.token_B.device)
        for cache in (self.trunk, self.predictor):
            cache.reorder_cache(there_B)  # type: ignore[arg-type]  # a beam search's name for it
        names = ("mask_BL", "token_B", "position_B", "hidden_BKD", "next_BK", "last_B")
        return replace(self, row_B=self.row_B[place_B], **{name: getattr(self, name)[there_B] for name in names})


class Pair:
    """Trunk and predictor as functions of tokens and caches."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.base: Any = plain_model(model)
        self.trunk, self.predictor = self.base.get_decoder(), predicting_decoder(model)
        self.rules = logit_rules(self.base, 1.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the head that trunk and predictor share."""
        return self.rules(self.base.get_output_embeddings()(hidden))

    def prefill(self, prompts: Sequence[Sequence[int]], prompt_B: Tensor, room: int) -> tuple[DraftBatch, Tensor]:
        """Read each prompt once, with `room` columns behind: rows without their first token, and its logits (B, V)."""
        device = next(self.base.parameters()).device
        longest = max(map(len, prompts))
        padding_P = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        ids_PL = torch.tensor([[PAD_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        column_L = torch.arange(longest + room, device=device)
        mask_PL = column_L >= padding_P[:, None]
        position_PL = (column_L[:longest] - padding_P[:, None]).clamp(min=0)
        trunk, predictor = (DynamicCache(config=decoder.config) for decoder in (self.trunk, self.predictor))
        given = {"attention_mask": mask_PL[:, :longest], "position_ids": position_PL, "past_key_values": trunk}
        hidden_PLD = self.trunk(input_ids=ids_PL, use_cache=True, **given).last_hidden_state
        if longest > 1:
            self._predict(hidden_PLD[:, :-1], ids_PL[:, 1:], mask_PL[:, : longest - 1], position_PL[:, :-1], predictor)
        last_P, nothing_P = hidden_PLD[:, -1:], torch.zeros_like(padding_P)
        batch = DraftBatch(
            torch.arange(len(prompts)), trunk, predictor, mask_PL, longest, nothing_P, longest - padding_P,
            last_P, nothing_P[:, None], nothing_P,
        )  # fmt: skip
        batch = batch.select(prompt_B)
        return replace(batch, row_B=torch.arange(len(prompt_B))), self.logits(batch.hidden_BKD[:, 0])

    def draft(self, batch: DraftBatch) -> Tensor:
        """Logits (B, V) of the token after the newest one, by the predictor, whose cache grows to `length`."""
        columns = batch.next_BK.shape[1]
        mask_BL = batch.mask_BL[:, : batch.length]
        # A row's newest token lies behind its last input.
        position_BK = (batch.position_B - 1 - batch.last_B)[:, None] + torch.arange(columns, device=mask_BL.device)
        out_BKD = self._predict(batch.hidden_BKD, batch.next_BK, mask_BL, position_BK, batch.predictor)
        logits_BV = self.logits(out_BKD[torch.arange(len(out_BKD), device=out_BKD.device), batch.last_B])
        return logits_BV.nan_to_num()  # whatever it says, verification makes right

    def read(self, batch: DraftBatch, ids_BK: Tensor) -> Tensor:
        """The trunk's hidden states (B, K, D) of further tokens, of which the first one is each row's newest."""
        columns = ids_BK.shape[1]
        position_BK = batch.position_B[:, None] + torch.arange(columns, device=ids_BK.device)
        out = self.trunk(
            input_ids=ids_BK,
            attention_mask=batch.mask_BL[:, : batch.length + columns],
            position_ids=position_BK,
            past_key_values=batch.trunk,
            use_cache=True,
        )
        return cast(Tensor, out.last_hidden_state)

    def _predict(self, hidden: Tensor, next_ids: Tensor, mask: Tensor, position: Tensor, cache: Cache) -> Tensor:
        given = predictor_input(self.model, hidden, next_ids)
        out = self.predictor(
            inputs_embeds=given, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        return cast(Tensor, out.last_hidden_state)
