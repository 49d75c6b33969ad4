"""From scored groups to what the learner trains on: rewards, advantages, masks and the weights of the loss.

Axes: P prompts of a step, G completions of a prompt, B = P*G in that order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from grpo.advantage_settings import GdpoAdvantage
from grpo.advantages import advantages, gdpo
from grpo.batch import Trajectory
from grpo.grpo_stage import GrpoStage
from grpo.losses.aggregation import sequence_weights
from grpo.types import Completion, Group, Routes, Score, ScoredGroup, TokenSequence

MaskReason = Literal["unscorable", "truncated"]


def reward_matrix(scored: Sequence[ScoredGroup]) -> Tensor:
    """Total rewards (P, G) in float64; a completion that cannot be scored is NaN."""
    totals = [[math.nan if s.total is None else s.total for s in group.scores] for group in scored]
    return torch.tensor(totals, dtype=torch.float64)


def part_matrix(scored: Sequence[ScoredGroup], reward: str) -> Tensor:
    """One reward's values (P, G) in float64; NaN where it does not apply or failed."""
    values = [[s.parts.get(reward) for s in group.scores] for group in scored]
    return torch.tensor([[math.nan if v is None else v for v in row] for row in values], dtype=torch.float64)


def counted_tensor(scored: Sequence[ScoredGroup], names: Sequence[str]) -> Tensor:
    """What each of R rewards counts as (R, P, G), in float64; NaN where it does not apply or nothing can be scored."""

    def value(score: Score, name: str) -> float:
        found = (score.counted or score.parts).get(name)
        return math.nan if found is None or score.total is None else found

    values = [[[value(score, name) for score in group.scores] for group in scored] for name in names]
    return torch.tensor(values, dtype=torch.float64)


def step_advantages(scored: Sequence[ScoredGroup], kl_PG: Tensor, stage: GrpoStage) -> Tensor:
    """Advantages (P, G) of a step's scores, less the KL penalty that the recipe puts in the reward."""
    if isinstance(stage.advantage, GdpoAdvantage):
        counted = [reward for reward in stage.rewards if reward.weight]
        rewards_RPG = counted_tensor(scored, [reward.shown_as for reward in counted])
        weights_R = torch.tensor([reward.weight for reward in counted], dtype=torch.float64)
        return gdpo(rewards_RPG, weights_R, stage.advantage.ddof, stage.advantage.epsilon)
    return advantages(reward_matrix(scored) - stage.kl.beta * kl_PG, stage.advantage)


def mask_reasons(scored: Sequence[ScoredGroup], mask_truncated: bool) -> list[list[MaskReason | None]]:
    """Why a completion is not trained on, for each of P groups and G completions; None when it is."""

    def reason(total: float | None, completion: Completion) -> MaskReason | None:
        if total is None:
            return "unscorable"
        return "truncated" if mask_truncated and completion.finish == "length" else None

    return [
        [reason(s.total, c) for s, c in zip(group.scores, group.group.completions, strict=True)] for group in scored
    ]


def token_trajectory(group: Group, completion: Completion) -> Trajectory:
    """One completion after its prompt, as the learner reads it, without a share in a loss."""
    tokens = TokenSequence(group.prompt_ids, completion.token_ids)
    sampler = completion.sampler_logprobs
    return Trajectory(tokens, sampler, sampler, advantage=0.0, weight=0.0, sampler_routes=completion.routes)


@dataclass(frozen=True)
class FirstPass:
    """What is known of a rollout before its first update, P lists of G: what ratios are taken to (see correction.py),
    and what routers are to choose, None where they are free."""

    anchors_PG: Sequence[Sequence[tuple[float, ...]]]
    routes_PG: Sequence[Sequence[Routes | None]]


def engines_own(scored: Sequence[ScoredGroup], replayed: bool = False) -> FirstPass:
    """The engine's probabilities, and its routes where they are replayed: no pass at all."""
    return FirstPass(
        [[completion.sampler_logprobs for completion in group.group.completions] for group in scored],
        [[completion.routes if replayed else None for completion in group.group.completions] for group in scored],
    )


def minibatches(
    scored: Sequence[ScoredGroup], first: FirstPass, advantages_PG: Tensor, stage: GrpoStage
) -> list[list[Trajectory]]:
    """The trajectories of every minibatch of a step, epoch after epoch.

    A minibatch holds whole groups, and its loss is aggregated over itself. Sequences that are masked are left out.
    So are those with advantage zero when nothing else in the loss moves them: their share of the loss is exactly
    zero, but they still count in its denominators.
    """
    size = math.ceil(len(scored) / stage.minibatches_per_step)
    parts = [
        _trajectories(
            scored[part], FirstPass(first.anchors_PG[part], first.routes_PG[part]), advantages_PG[part], stage
        )
        for part in (slice(start, start + size) for start in range(0, len(scored), size))
    ]
    return parts * stage.epochs_per_step


def _trajectories(
    scored: Sequence[ScoredGroup], first: FirstPass, advantages_PG: Tensor, stage: GrpoStage
) -> list[Trajectory]:
    reasons = [reason for row in mask_reasons(scored, stage.mask_truncated) for reason in row]
    trajectories = [
        replace(token_trajectory(g.group, completion), anchor_logprobs=anchor, replayed_routes=routes)
        for g, anchors_G, routes_G in zip(scored, first.anchors_PG, first.routes_PG, strict=True)
        for completion, anchor, routes in zip(g.group.completions, anchors_G, routes_G, strict=True)
    ]
    weights_B = sequence_weights(
        torch.tensor([len(t.tokens.target_ids) for t in trajectories]),
        torch.tensor([reason is None for reason in reasons]),
        stage.loss.aggregation,
        stage.longest_completion,
        count_masked=False,
    )
    everything_counts = (stage.kl.place == "loss" and stage.kl.beta > 0) or has_entropy_bonus(stage) or _balances(stage)
    rows = zip(trajectories, reasons, advantages_PG.flatten().tolist(), weights_B.tolist(), strict=True)
    return [
        replace(trajectory, advantage=advantage, weight=weight)
        for trajectory, reason, advantage, weight in rows
        if reason is None and (everything_counts or advantage != 0)
    ]


def _balances(stage: GrpoStage) -> bool:
    """Whether a loss of routers counts every token."""
    return stage.experts.sequence_balance_loss > 0 or stage.experts.auxiliary_loss > 0


def has_entropy_bonus(stage: GrpoStage) -> bool:
    """Whether entropy can enter the loss, now or once an adaptive coefficient has risen."""
    return stage.entropy.bonus > 0 or (stage.entropy.target is not None and stage.entropy.delta > 0)
