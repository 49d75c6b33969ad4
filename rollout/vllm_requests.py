"""The wire between our requests and vLLM's, the same in this process and with a server: token ids in, token ids out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from grpo.rollout.engine import Sampling
from grpo.rollout.stopping import Stopping, decode
from grpo.types import Completion, Finish, Routes, TrainingFailure


def sampling_arguments(sampling: Sampling, seed: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """The fields of vLLM's SamplingParams for one completion.

    Only the given ids end a text (`ignore_eos` puts aside what vLLM read in the model's config), and stop strings are
    looked for in the text as it is, special tokens included.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed,
        "logprobs": 0,
        "stop": list(sampling.stop),
        "stop_token_ids": list(eos_ids),
        "ignore_eos": True,
        "detokenize": bool(sampling.stop),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }


@dataclass(frozen=True)
class Sampled:
    """One completion as vLLM gives it. `versions` are those of the weights that made its tokens."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str | None
    versions: Sequence[str]


def told_routes(experts: Any, layers: Sequence[int], tokens: int) -> Routes:
    """The routes of the first `tokens` tokens from vLLM's array (tokens, layers of all kinds, K), of these layers.

    Raises:
        TrainingFailure: there is no such array, or it is too short.
    """
    if experts is None or len(experts) < tokens:
        raise TrainingFailure(
            f"vLLM told the experts of {0 if experts is None else len(experts)} tokens, expected {tokens}: set "
            "experts.routing_replay: policy"
        )
    return Routes.of(torch.from_numpy(experts[:tokens][:, list(layers)].astype("int64")))


class Reader:
    """Turns what vLLM sampled into completions that end exactly where the transformers engine would end them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int]):
        self._tokenizer = tokenizer
        self._eos_ids = tuple(eos_ids)
        self._stopping: dict[tuple[str, ...], Stopping] = {}

    def check(self, sampling: Sampling) -> None:
        """Raise UserError for stop strings that cannot be."""
        self._rule(sampling)

    def completion(self, sampled: Sampled, sampling: Sampling, version: int, label: str) -> Completion:
        """The completion, checked. `label` is what vLLM was told to call the weights of `version`.

        Raises:
            TrainingFailure: a token came from other weights than `version`, a probability is not finite, or vLLM ended
                the completion for no reason that we know.
        """
        self._check_sound(sampled, version, label)
        end = self._rule(sampling).first_end(sampled.token_ids)
        if end is None and (sampled.finish_reason != "length" or len(sampled.token_ids) != sampling.max_new_tokens):
            raise TrainingFailure(
                f"vLLM ended a completion after {len(sampled.token_ids)} tokens for the reason "
                f"{sampled.finish_reason!r}, expected an end token, a stop text or {sampling.max_new_tokens} tokens: "
                "run again; if it comes back, set rollout.engine: transformers"
            )
        ids = tuple(sampled.token_ids[:end])
        text = decode(self._tokenizer, ids[:-1] if ids[-1] in self._eos_ids else ids)
        finish: Finish = "length" if end is None else "stop"
        return Completion(text, ids, tuple(sampled.logprobs[: len(ids)]), finish, version)

    def _check_sound(self, sampled: Sampled, version: int, label: str) -> None:
        strange = [found for found in sampled.versions if found != label]
        if strange or not sampled.versions:
            raise TrainingFailure(
                f"vLLM sampled with weights called {strange[0] if strange else 'nothing'}, expected {label} (version "
                f"{version}): another program may have changed the engine; run again to go on from the last checkpoint"
            )
        if not all(map(math.isfinite, sampled.logprobs)):
            raise TrainingFailure(
                f"the policy's logits are not finite at weight version {version}: go back to an earlier model, and "
                "lower lr"
            )

    def _rule(self, sampling: Sampling) -> Stopping:
        if sampling.stop not in self._stopping:
            self._stopping[sampling.stop] = Stopping(self._tokenizer, self._eos_ids, sampling.stop)
        return self._stopping[sampling.stop]
