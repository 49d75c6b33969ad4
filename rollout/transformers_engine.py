"""The engine that samples with the very module that is being trained.

Not `model.generate`: a config's generation defaults (top_k 50, repetition penalties) would bend the distribution that
the learner assumes, and its sampling draws from one generator for the whole batch.

What completions of a prompt have in common at their beginning is computed once.

Axes: R rows of a wave, O rows of them that go on, B different beginnings of those, T tokens.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from grpo.experts.observe import chosen_experts
from grpo.families import positions, positions_said
from grpo.mtp_settings import SpeculativeSettings
from grpo.rollout.decoding import Sampled, Starts, extend, prefill, sampling_mode
from grpo.rollout.drafting import Pair, check_can_draft
from grpo.rollout.engine import Sampler, SampleRequest, Sampling
from grpo.rollout.route_log import RouteLog
from grpo.rollout.sampler import choose_from, uniforms
from grpo.rollout.speculative import NUMBERS, Wave, speculate
from grpo.rollout.stopping import Stopping, decode, find_eos_ids
from grpo.types import Completion, Drafts, Finish, Routes, TrainingFailure, UserError

Row = tuple[tuple[int, ...], int]
"""The ids of a prompt and the seed of one completion."""


class TransformersEngine:
    """Samples in waves of `max_concurrent` rows; each distinct prompt or beginning of a wave is read once.

    A completion depends on the weights, its prompt, its seed and the sampling, not on what is sampled beside it, but
    for the rounding of batched matrix products. `eos_ids` left out are those of the model and the tokenizer; with
    none, only stop strings and the token limit end a completion. `speculative`: the policy's own predictor drafts.

    Raises:
        UserError: the policy cannot draft.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_concurrent: int,
        precision: Literal["fp32", "bf16"],
        eos_ids: Sequence[int] | None = None,
        speculative: SpeculativeSettings | None = None,
    ):
        if speculative is not None:
            check_can_draft(model)
        self._model = model
        self._version = 0
        self._tokenizer = tokenizer
        self._max_concurrent = max_concurrent
        self._precision = precision
        self._eos_ids = find_eos_ids(model, tokenizer) if eos_ids is None else tuple(eos_ids)
        self._speculative = speculative
        self._stopping: dict[tuple[str, ...], Stopping] = {}

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Sample with `model` itself from now on, without a copy; completions carry `version`."""
        self._model = model
        self._version = version

    def replicas(self) -> Sequence[Sampler]:
        """None: there is no copy of the weights that could differ."""
        return ()

    def check_with(self, check: Callable[[Sampler], None]) -> None:
        """Nothing: it has no weights of its own."""

    def rest(self) -> None:
        """Nothing is held between two calls."""

    def close(self) -> None:
        """Nothing is held."""

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """Return, for every request in order, one completion per seed in order.

        Raises:
            UserError: a prompt is empty or leaves too little room, or a stop string is empty.
            TrainingFailure: the model's logits are not finite.
        """
        check_room(self._model, [request.prompt_ids for request in requests], sampling.max_new_tokens)
        if sampling.stop not in self._stopping:
            self._stopping[sampling.stop] = Stopping(self._tokenizer, self._eos_ids, sampling.stop)
        rows = [(request.prompt_ids, seed) for request in requests for seed in request.seeds]
        waves = [rows[start : start + self._max_concurrent] for start in range(0, len(rows), self._max_concurrent)]
        with sampling_mode(self._model, self._precision):
            completions = iter([completion for wave in waves for completion in self._sample(wave, sampling)])
        return [list(islice(completions, len(request.seeds))) for request in requests]

    def _sample(self, wave: Sequence[Row], sampling: Sampling) -> list[Completion]:
        prompts = list(dict.fromkeys(prompt_ids for prompt_ids, _ in wave))
        prompt_R = [prompts.index(prompt_ids) for prompt_ids, _ in wave]
        if self._speculative is not None:
            return self._speculated(wave, prompts, torch.tensor(prompt_R), sampling, self._speculative)
        uniform_RT = uniforms([seed for _, seed in wave], sampling.max_new_tokens)
        with chosen_experts(self._model) as last:
            log = RouteLog(last)
            growing = prefill(self._model, prompts, sampling.max_new_tokens)
            log.read_prompts([len(prompt) for prompt in prompts])
            starts = Starts(growing, torch.tensor(prompt_R))
            sampled = _decode(self._model, starts, uniform_RT, sampling, self._stopping[sampling.stop], log)
        routes_R = log.routes(prompt_R, sampled.length_R.tolist())
        return [self._completion(sampled, row, routes) for row, routes in enumerate(routes_R)]

    def _speculated(
        self,
        wave: Sequence[Row],
        prompts: Sequence[tuple[int, ...]],
        prompt_R: Tensor,
        sampling: Sampling,
        settings: SpeculativeSettings,
    ) -> list[Completion]:
        """Without routes: a draft that is rejected leaves some that are no completion's."""
        limit = sampling.max_new_tokens
        uniform_RT3 = uniforms([seed for _, seed in wave], NUMBERS * limit).view(-1, limit, NUMBERS)
        how = Wave(Pair(self._model), uniform_RT3, sampling, self._stopping[sampling.stop], settings)
        sampled = speculate(how, prompts, prompt_R)
        return [self._completion(sampled, row, None) for row in range(len(wave))]

    def _completion(self, sampled: Sampled, row: int, routes: Routes | None) -> Completion:
        length = int(sampled.length_R[row])
        token_ids = tuple(sampled.tokens_RT[row, :length].tolist())
        logprobs = tuple(sampled.logprobs_RT[row, :length].tolist())
        if not all(map(math.isfinite, logprobs)):
            raise TrainingFailure(
                f"the policy's logits are not finite at weight version {self._version}: go back to an earlier model, "
                "and lower lr"
            )
        text = decode(self._tokenizer, token_ids[:-1] if token_ids[-1] in self._eos_ids else token_ids)
        finish: Finish = "stop" if sampled.stopped_R[row] else "length"
        drafts = None if sampled.drafts_R3 is None else Drafts(*sampled.drafts_R3[row].tolist())
        return Completion(text, token_ids, logprobs, finish, self._version, routes, drafts)


def _decode(
    model: nn.Module, starts: Starts, uniform_RT: Tensor, sampling: Sampling, stopping: Stopping, log: RouteLog
) -> Sampled:
    """Sample until every row has ended."""
    rows, limit = uniform_RT.shape
    tokens_RT, logprobs_RT = torch.zeros(rows, limit, dtype=torch.long), torch.zeros(rows, limit)
    length_R, stopped_R = torch.full((rows,), limit), torch.zeros(rows, dtype=torch.bool)
    row_O = torch.arange(rows)
    for step in range(limit):
        device = starts.growing.logits_BV.device
        uniform_O, place_O = uniform_RT[row_O, step].to(device), starts.place_O.to(device)
        token_O, logprob_O = choose_from(starts.growing.logits_BV, place_O, uniform_O, sampling)
        tokens_RT[row_O, step], logprobs_RT[row_O, step] = token_O.cpu(), logprob_O.cpu()
        ended_O = stopping.reached(tokens_RT[:, : step + 1], row_O)
        length_R[row_O[ended_O]], stopped_R[row_O[ended_O]] = step + 1, True
        if ended_O.all() or step + 1 == limit:
            break
        row_O = row_O[~ended_O]
        starts = extend(model, starts, starts.place_O[~ended_O], tokens_RT[row_O, step])
        log.read_tokens(row_O, starts.place_O)
    return Sampled(tokens_RT, logprobs_RT, length_R, stopped_R)


def check_room(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise UserError when a prompt is empty, or has no room for `max_new_tokens` after it in the model's positions."""
    if not all(prompts):
        raise UserError("a prompt expected at least one token, got none: give the template or the data some text")
    longest = max(map(len, prompts), default=0)
    room = positions(model.config) if hasattr(model, "config") else None
    if room is not None and longest + max_new_tokens > room:
        raise UserError(
            f"the model has {positions_said(model.config)}; a prompt of {longest} tokens and max_new_tokens "
            f"{max_new_tokens} take {longest + max_new_tokens}: lower max_new_tokens, or problems.max_prompt_tokens to "
            "leave long prompts out"
        )
