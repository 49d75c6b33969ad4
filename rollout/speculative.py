"""Self-speculative decoding: the policy's predictor drafts a token, and one pass of the policy verifies it and goes on.

A pass reads two tokens of a row, the newest one and the draft of the one after. Where the draft is kept, the pass has
given two tokens; where it is not, one: rows of a batch advance differently.

Number t of a row is decided by the three numbers (t, 0..2) of its seed, whatever its neighbours are: one draws the
token, one keeps or rejects the draft, one draws the draft.

Axes: R rows of a wave, B rows still in the batch, T tokens, D hidden units, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo.mtp_settings import SpeculativeSettings
from grpo.rollout.decoding import MOST_OPEN, Sampled
from grpo.rollout.drafting import DraftBatch, Pair
from grpo.rollout.engine import Sampling
from grpo.rollout.rejection import accepted, corrected
from grpo.rollout.sampler import choice_counts, choose, inverse_cdf, log_probabilities
from grpo.rollout.stopping import Stopping

NUMBERS = 3
"""Random numbers of a token: TOKEN draws it, KEEP decides about its draft, DRAFT draws that."""
TOKEN, KEEP, DRAFT = range(NUMBERS)


def speculate(wave: "Wave", prompts: Sequence[Sequence[int]], prompt_R: Tensor) -> Sampled:
    """Sample a completion after prompt `prompt_R` of `prompts` for every row of a new wave."""
    batch, logits_BV = wave.pair.prefill(prompts, prompt_R, room=2 * wave.limit)
    first_B = wave.write(batch.row_B, logits_BV)
    batch = replace(batch, token_B=first_B, next_BK=first_B[:, None])
    while wave.open(batch.row_B).any():
        batch = wave.without_ended(batch)
        batch = wave.draft_step(batch) if wave.drafts(batch.row_B).any() else wave.plain_step(batch)
    return wave.sampled()


class Wave:
    """What is sampled for R rows, on the CPU, and the passes that add to it; at most T tokens of `uniform_RT3`."""

    def __init__(
        self, pair: Pair, uniform_RT3: Tensor, sampling: Sampling, stopping: Stopping, settings: SpeculativeSettings
    ):
        self.pair, self.uniform_RT3, self.sampling = pair, uniform_RT3, sampling
        self.stopping, self.settings = stopping, settings
        rows, self.limit, _ = uniform_RT3.shape
        self.tokens_RT = torch.zeros(rows, self.limit, dtype=torch.long)
        self.logprobs_RT = torch.zeros(rows, self.limit)
        self.length_R = torch.zeros(rows, dtype=torch.long)
        self.stopped_R = torch.zeros(rows, dtype=torch.bool)
        self.drafts_R3 = torch.zeros(rows, 3, dtype=torch.long)

    def sampled(self) -> Sampled:
        """The result once every row has ended."""
        return Sampled(self.tokens_RT, self.logprobs_RT, self.length_R, self.stopped_R, self.drafts_R3)

    def open(self, row_B: Tensor) -> Tensor:
        """Which rows may go on."""
        return ~self.stopped_R[row_B] & (self.length_R[row_B] < self.limit)

    def drafts(self, row_B: Tensor) -> Tensor:
        """Which rows may go on and have had drafts that are worth it. A row's own past alone decides."""
        _, drafted_B, kept_B = self.drafts_R3[row_B].unbind(1)
        poor_B = (drafted_B >= self.settings.patience) & (kept_B < self.settings.min_acceptance * drafted_B)
        return self.open(row_B) & ~poor_B

    def without_ended(self, batch: DraftBatch) -> DraftBatch:
        """The batch without its ended rows, once these are worth a copy of the caches."""
        open_B = self.open(batch.row_B)
        return batch.select(open_B.nonzero()[:, 0]) if open_B.sum() <= MOST_OPEN * len(open_B) else batch

    def draft_step(self, batch: DraftBatch) -> DraftBatch:
        """Draft, verify, and go on where the draft was right."""
        row_B, device = batch.row_B, batch.token_B.device
        open_B, drafts_B = self.open(row_B), self.drafts(row_B)
        draft_BV = choice_counts(log_probabilities(self.pair.draft(batch), self.sampling), self.sampling)
        draft_B = inverse_cdf(draft_BV, self._uniform(row_B, DRAFT, device))
        hidden_B2D = self.pair.read(batch, torch.stack([batch.token_B, draft_B], 1))
        logits_B2V = self.pair.logits(hidden_B2D)

        logprobs_BV = log_probabilities(logits_B2V[:, 0], self.sampling)
        target_BV = choice_counts(logprobs_BV, self.sampling)
        kept_B = accepted(target_BV, draft_BV, draft_B, self._uniform(row_B, KEEP, device)) & drafts_B.to(device)
        first_B = self._first(target_BV, draft_BV, torch.where(kept_B, draft_B, -1), drafts_B.to(device), row_B)
        self.drafts_R3[row_B] += torch.stack([open_B, drafts_B, kept_B.cpu() & open_B], 1).long()
        self._add(row_B, first_B, logprobs_BV.gather(-1, first_B[:, None])[:, 0], open_B)
        again_B = kept_B.cpu() & self.open(row_B)
        second_B = self.write(row_B, logits_B2V[:, 1], again_B)

        again_B = again_B.to(device)
        batch.mask_BL[:, batch.length + 1] = again_B
        return replace(
            batch,
            length=batch.length + 2,
            token_B=torch.where(again_B, second_B, first_B),
            position_B=batch.position_B + open_B.to(device).long() + again_B.long(),
            hidden_BKD=hidden_B2D,
            next_BK=torch.stack([first_B, second_B], 1),
            last_B=again_B.long(),
        )

    def plain_step(self, batch: DraftBatch) -> DraftBatch:
        """One token more for each row, without drafts from here on."""
        open_B = self.open(batch.row_B)
        hidden_B1D = self.pair.read(batch, batch.token_B[:, None])
        self.drafts_R3[batch.row_B, 0] += open_B.long()
        token_B = self.write(batch.row_B, self.pair.logits(hidden_B1D[:, 0]), open_B)
        position_B = batch.position_B + open_B.to(token_B.device).long()
        return replace(batch, length=batch.length + 1, token_B=token_B, position_B=position_B)

    def write(self, row_B: Tensor, logits_BV: Tensor, where_B: Tensor | None = None) -> Tensor:
        """Draw a token (B,) for every row, and add it to some."""
        token_B, logprob_B = choose(logits_BV, self._uniform(row_B, TOKEN, logits_BV.device), self.sampling)
        self._add(row_B, token_B, logprob_B, torch.ones_like(row_B, dtype=torch.bool) if where_B is None else where_B)
        return token_B

    def _first(self, target_BV: Tensor, draft_BV: Tensor, kept_B: Tensor, drafts_B: Tensor, row_B: Tensor) -> Tensor:
        """The token after each row's newest one: the draft in `kept_B`, or, where that is -1, another."""
        uniform_B, first_B = self._uniform(row_B, TOKEN, kept_B.device), kept_B.clone()
        rejected_B, undrafted_B = (kept_B < 0) & drafts_B, (kept_B < 0) & ~drafts_B
        if rejected_B.any():
            first_B[rejected_B] = corrected(target_BV[rejected_B], draft_BV[rejected_B], uniform_B[rejected_B])
        if undrafted_B.any():
            first_B[undrafted_B] = inverse_cdf(target_BV[undrafted_B], uniform_B[undrafted_B])
        return first_B

    def _add(self, row_B: Tensor, token_B: Tensor, logprob_B: Tensor, where_B: Tensor) -> None:
        row_B, token_B, logprob_B = row_B[where_B], token_B.cpu()[where_B], logprob_B.cpu()[where_B]
        place_B = self.length_R[row_B]
        self.tokens_RT[row_B, place_B], self.logprobs_RT[row_B, place_B] = token_B, logprob_B
        self.length_R[row_B] += 1
        self.stopped_R[row_B] = self.stopping.reached(self.tokens_RT, row_B, place_B + 1)

    def _uniform(self, row_B: Tensor, kind: int, device: torch.device) -> Tensor:
        """A number for the next token of each row; those of ended rows are not used."""
        place_B = self.length_R[row_B].clamp(max=self.limit - 1)
        return self.uniform_RT3[row_B, place_B, kind].to(device)
