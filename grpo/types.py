"""The records that data becomes on its way from a problem to an optimizer step, one frozen record per stop.

Problem -> Group (of Completions) -> ScoredGroup -> Batch
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Finish = Literal["stop", "length"]
"""Why sampling ended: an EOS token or a stop string, or the token limit."""

Status = Literal["ok", "not_applicable", "error", "timeout"]
"""How a reward fared on one completion. Only "ok" carries a number."""


class UserError(Exception):
    """Wrong input from the user, said in one sentence: where, what was expected, what came, what to do.

    The command line prints the sentence and ends with status 2.
    """


def one_line(said: object, longest: int = 300) -> str:
    """What an exception or a value says as part of a sentence: on one line, and its beginning where that is long."""
    text = " ".join(str(said).split())
    return text[:longest] or type(said).__name__


class TrainingFailure(Exception):
    """Training cannot go on though the input is right, said in one sentence: where, what happened, what to try."""


class EngineLost(TrainingFailure):
    """Nothing is left that could sample. What was learned so far is worth a checkpoint."""


@dataclass(frozen=True)
class Problem:
    """A question, its identity, and what the rewards need to judge an answer to it.

    `source` names the source of a mixture that it is from, and is empty where there is one source.
    """

    id: str
    prompt: str
    columns: Mapping[str, Any]
    source: str = ""


class Drafts(NamedTuple):
    """Forward passes of the policy after the prompt, how many had a draft to verify, and how many drafts were right."""

    passes: int
    drafted: int
    accepted: int


@dataclass(frozen=True)
class Routes:
    """The K experts that each of L routers chose for each of T tokens: all of a sequence but the last, never computed.

    `data` holds them token by token, router by router, two bytes each, so that records with routes compare and hash.
    """

    routers: int
    experts: int
    data: bytes

    @classmethod
    def of(cls, experts_TLK: Tensor) -> "Routes":
        """The routes that a tensor of experts (T, L, K) holds."""
        numbers = experts_TLK.cpu().numpy().astype("<i2")
        return cls(numbers.shape[1], numbers.shape[2], numbers.tobytes())

    def tensor(self) -> Tensor:
        """The experts (T, L, K)."""
        numbers = np.frombuffer(self.data, "<i2").astype(np.int64)
        return torch.from_numpy(numbers).reshape(-1, self.routers, self.experts)


@dataclass(frozen=True)
class Completion:
    """What an engine sampled. `token_ids` is the truth; `text` is its reading, without the final EOS token.

    `sampler_logprobs` holds one natural-log probability a token, at the temperature it was sampled with. `routes` are
    those of the prompt and the completion, where the policy has routers and the engine tells what they chose; `drafts`
    what speculative decoding did, None without it.
    """

    text: str
    token_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    finish: Finish
    weight_version: int
    routes: Routes | None = None
    drafts: Drafts | None = None


@dataclass(frozen=True)
class Group:
    """The completions of one problem, which are compared with each other."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Score:
    """The verdict on one completion.

    `parts` are what the rewards gave, `counted` what they count as once gates and bounds have had their say: empty
    when it is the same. `total` is the weighted sum of what counts, or None when the completion cannot be scored: a
    reward failed on it, or none applied. Such a completion is neither rewarded nor punished. `notes` are what rewards
    say about how they came to their number: accuracy, which rule found the answer.
    """

    total: float | None
    parts: Mapping[str, float | None]
    status: Mapping[str, Status]
    notes: Mapping[str, str] = field(default_factory=dict)
    counted: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredGroup:
    """A group with one score per completion."""

    group: Group
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the tokens after it that are trained on."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


class PackedGroup(NamedTuple):
    """Lengths of a prompt and of the parts of its completions that lie behind it, one after the other."""

    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True)
class PackedTokens:
    """S sequences (prompt and completion) end to end, without padding, in T tokens; a shared prompt lies there once.

    `groups` says what lies where: each is a prompt and, right after it, its completions without their last tokens, that
    predict nothing. A completion's `position_ids_T` go on where its prompt's end. N tokens are targets: `target_ids_N`
    is predicted at index `predictor_N` of T, and `sequence_N` says which of the S sequences it belongs to (0..S-1).
    `sequence_tokens` counts the tokens of all S sequences as if each had a prompt of its own.
    """

    groups: tuple[PackedGroup, ...]
    sequence_tokens: int
    token_ids_T: Tensor
    position_ids_T: Tensor
    predictor_N: Tensor
    target_ids_N: Tensor
    sequence_N: Tensor


@dataclass(frozen=True)
class Batch:
    """A micro-batch of policy-gradient work: tokens and what is known about each target token.

    `weights_N` carries the aggregation: the loss of a minibatch is the sum of weight * token loss over all of its
    micro-batches and processes, so a split changes nothing. The experts of T tokens are those that the engine chose,
    and those that the learner is to choose; None where they are unknown or free.
    """

    tokens: PackedTokens
    sampler_logprobs_N: Tensor
    anchor_logprobs_N: Tensor
    advantages_N: Tensor
    weights_N: Tensor
    sampler_routes_TLK: Tensor | None = None
    replayed_routes_TLK: Tensor | None = None
