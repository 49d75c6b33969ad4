"""From trajectories to packed micro-batches: completions lie behind their prompt, no padding, within a token budget.

Axes: S sequences of a micro-batch, T packed tokens, N of them trained on, L routers, K experts that each chooses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from grpo.split import split
from grpo.types import Batch, PackedGroup, PackedTokens, Routes, TokenSequence


@dataclass(frozen=True)
class Trajectory:
    """A sampled sequence with what the policy gradient needs to know about it.

    `anchor_logprobs` are what its ratios are taken to (see correction.py). `weight` is what each of its tokens counts
    in the loss of the minibatch (see losses/aggregation.py). `sampler_routes` are the experts that the engine's routers
    chose, where it says so, and `replayed_routes` those that the learner's are to choose.
    """

    tokens: TokenSequence
    sampler_logprobs: tuple[float, ...]
    anchor_logprobs: tuple[float, ...]
    advantage: float
    weight: float
    sampler_routes: Routes | None = None
    replayed_routes: Routes | None = None


def pack(sequences: Sequence[TokenSequence], device: torch.device) -> PackedTokens:
    """Lay sequences end to end; neighbours with the same prompt share it.

    Three sequences, prompt 5 6 with targets 7 8 and with targets 3 4 2, and prompt 9 with target 4, give the tokens
    5 6 7 3 4 9 at positions 0 1 2 2 3 0. The targets 7 8 3 4 2 4 are predicted at indices 1 2 1 3 4 5: the last token
    of a prompt predicts the first token of each of its completions.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    groups = []
    for prompt_ids, members in groupby(sequences, lambda sequence: sequence.prompt_ids):
        last = len(token_ids) + len(prompt_ids) - 1
        token_ids += prompt_ids
        positions += range(len(prompt_ids))
        lengths = []
        for sequence in members:
            own = sequence.target_ids[:-1]
            start = len(token_ids)
            predictors += [last, *range(start, start + len(own))] if sequence.target_ids else []
            positions += range(len(prompt_ids), len(prompt_ids) + len(own))
            token_ids += own
            lengths.append(len(own))
        groups.append(PackedGroup(len(prompt_ids), tuple(lengths)))
    targets = [token for sequence in sequences for token in sequence.target_ids]
    owners = [index for index, sequence in enumerate(sequences) for _ in sequence.target_ids]
    columns = (token_ids, positions, predictors, targets, owners)
    whole = [torch.tensor(column, dtype=torch.long, device=device) for column in columns]  # an empty one is float
    return PackedTokens(tuple(groups), sum(map(len, sequences)), *whole)


def token_indices(tokens: PackedTokens) -> list[Tensor]:
    """Where the tokens of each sequence, its prompt's and its own, lie in the packing."""
    rows, start = [], 0
    for prompt, completions in tokens.groups:
        own = start + prompt
        for length in completions:
            rows.append(torch.cat([torch.arange(start, start + prompt), torch.arange(own, own + length)]))
            own += length
        start = own
    return rows


def packed_routes(routes: Sequence[Routes | None], tokens: PackedTokens) -> Tensor | None:
    """The experts of packed tokens (T, L, K) from those of their sequences; a shared prompt has its first sequence's.

    None where a sequence has none.
    """
    known = [route.tensor() for route in routes if route is not None]
    if len(known) < len(routes):
        return None
    packed_TLK = known[0].new_empty(len(tokens.token_ids_T), *known[0].shape[1:])
    for index, route_TLK in reversed(list(zip(token_indices(tokens), known, strict=True))):
        packed_TLK[index] = route_TLK
    return packed_TLK.to(tokens.token_ids_T.device)


def make_batch(trajectories: Sequence[Trajectory], device: torch.device) -> Batch:
    """Pack trajectories and spread what is known of each over its target tokens."""
    lengths_S = torch.tensor([len(t.tokens.target_ids) for t in trajectories])

    def per_token(values: list[float]) -> Tensor:
        return torch.tensor(values).repeat_interleave(lengths_S).to(device)

    def flat(rows: Iterable[tuple[float, ...]]) -> Tensor:
        return torch.tensor([x for row in rows for x in row], device=device)

    tokens = pack([t.tokens for t in trajectories], device)
    return Batch(
        tokens=tokens,
        sampler_logprobs_N=flat(t.sampler_logprobs for t in trajectories),
        anchor_logprobs_N=flat(t.anchor_logprobs for t in trajectories),
        advantages_N=per_token([t.advantage for t in trajectories]),
        weights_N=per_token([t.weight for t in trajectories]),
        sampler_routes_TLK=packed_routes([t.sampler_routes for t in trajectories], tokens),
        replayed_routes_TLK=packed_routes([t.replayed_routes for t in trajectories], tokens),
    )


def micro_batches(
    trajectories: Sequence[Trajectory], budget: int, device: torch.device, processes: int = 1, share: bool = True
) -> list[Batch]:
    """Split the trajectories of a minibatch by a token budget; see `grpo.split`."""
    parts = split([t.tokens for t in trajectories], budget, processes, share)
    return [make_batch([trajectories[i] for i in part], device) for part in parts]
