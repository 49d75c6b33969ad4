"""From trajectories to packed micro-batches: whole sequences end to end, no padding, split by a token budget.

Axes: S sequences of a micro-batch, T tokens, N of them trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.types import Batch, PackedTokens


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the tokens after it that are trained on."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Trajectory:
    """A sampled sequence with what the policy gradient needs to know about it.

    `weight` is what each of its tokens counts in the loss of the minibatch (see losses/aggregation.py).
    """

    tokens: TokenSequence
    sampler_logprobs: tuple[float, ...]
    advantage: float
    weight: float


def pack(sequences: Sequence[TokenSequence], device: torch.device) -> PackedTokens:
    """Lay sequences end to end.

    Two sequences (prompt 5 6, targets 7 8) and (prompt 9, target 4) give tokens 5 6 7 8 9 4 at positions 0 1 2 3 0 1,
    and the targets 7 8 4 are predicted at indices 1 2 4.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    owners: list[int] = []
    for index, sequence in enumerate(sequences):
        start = len(token_ids) + len(sequence.prompt_ids)
        predictors += range(start - 1, start - 1 + len(sequence.target_ids))
        owners += [index] * len(sequence.target_ids)
        positions += range(len(sequence))
        token_ids += [*sequence.prompt_ids, *sequence.target_ids]
    targets = [token for sequence in sequences for token in sequence.target_ids]
    columns = (token_ids, positions, predictors, targets, owners)
    whole = [torch.tensor(column, dtype=torch.long, device=device) for column in columns]  # an empty one is float
    return PackedTokens(tuple(map(len, sequences)), *whole)


def make_batch(trajectories: Sequence[Trajectory], device: torch.device) -> Batch:
    """Pack trajectories and spread what is known of each over its target tokens."""
    lengths_S = torch.tensor([len(t.tokens.target_ids) for t in trajectories])

    def per_token(values: list[float]) -> Tensor:
        return torch.tensor(values).repeat_interleave(lengths_S).to(device)

    return Batch(
        tokens=pack([t.tokens for t in trajectories], device),
        sampler_logprobs_N=torch.tensor([x for t in trajectories for x in t.sampler_logprobs], device=device),
        advantages_N=per_token([t.advantage for t in trajectories]),
        weights_N=per_token([t.weight for t in trajectories]),
    )


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices so that no group holds more than `budget` tokens, unless a single sequence does.

    Best-fit decreasing: the longest first, each into the fullest group that still has room. The result depends on the
    lengths alone. Budget 10 and lengths 4 7 3 6 give [1, 2] and [3, 0].
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [g for g, left in enumerate(room) if left >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda g: room[g])
            groups[best].append(index)
            room[best] -= lengths[index]
        else:
            groups.append([index])
            room.append(budget - lengths[index])
    return groups


def micro_batches(trajectories: Sequence[Trajectory], budget: int, device: torch.device) -> list[Batch]:
    """Split the trajectories of a minibatch by a token budget."""
    groups = split_by_tokens([len(t.tokens) for t in trajectories], budget)
    return [make_batch([trajectories[i] for i in group], device) for group in groups]
