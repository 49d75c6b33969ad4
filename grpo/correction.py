"""What is done about an engine whose probabilities are not quite the learner's, and what a ratio is taken to.

Three sets of weights are told apart: the engine's copy that sampled, the learner's own at that moment (the anchor), and
the policy as it is now. Without a correction the ratio is policy / engine, which needs no further pass. With one it is
policy / anchor, times a bounded function of rho = anchor / engine, so that nothing is counted twice.

Axes: P prompts of a step, G completions of a prompt, N trained tokens of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import gather_object
from torch import Tensor

from grpo.batch import make_batch, token_indices
from grpo.correction_settings import CorrectionSettings, OffPolicyMask
from grpo.experience import FirstPass, engines_own, token_trajectory
from grpo.experts.observe import Routing, observe
from grpo.forward import packs, target_logprobs
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner
from grpo.losses.mismatch import correction_weights, on_policy_enough
from grpo.split import split
from grpo.tally import Tally
from grpo.types import Batch, Routes, ScoredGroup, TrainingFailure

Logprobs = tuple[float, ...]


@dataclass(frozen=True)
class Correction:
    """What is done about the gap. `policy_is_anchor`: a step has one update, so the policy is still what it was."""

    settings: CorrectionSettings | None = None
    off_policy_mask: OffPolicyMask | None = None
    policy_is_anchor: bool = False

    def anchor(self, policy_logprobs_N: Tensor, batch: Batch) -> Tensor:
        """The log-probabilities that the ratio is taken to."""
        return policy_logprobs_N.detach() if self.policy_is_anchor else batch.anchor_logprobs_N

    def weights(self, policy_logprobs_N: Tensor, batch: Batch) -> tuple[Tensor, Tally]:
        """The factor of each token's loss, without gradient, and figures about it."""
        sampler_N, sequence_N = batch.sampler_logprobs_N, batch.tokens.sequence_N
        weights_N, tally = torch.ones_like(sampler_N), Tally()
        if self.settings is not None:
            options = self.settings.model_dump(exclude={"kind"})
            anchor_N = self.anchor(policy_logprobs_N, batch)
            weights_N = correction_weights(anchor_N, sampler_N, sequence_N, self.settings.kind, **options)
            tally.tokens("correction/weight_mean", weights_N)
            bound = self.settings.high if self.settings.kind.endswith("truncate") else 0.0
            tally.tokens("correction/bounded", (weights_N == bound).float())
        if self.off_policy_mask is not None:
            kept_N = on_policy_enough(
                policy_logprobs_N, sampler_N, batch.advantages_N, sequence_N, self.off_policy_mask.delta
            )
            weights_N = weights_N * kept_N
            tally.tokens("correction/off_policy", (~kept_N).float())
        return weights_N, tally


NO_CORRECTION = Correction()
"""The ratio is to the engine's own probabilities, and every weight is 1."""


def correction_of(stage: GrpoStage) -> Correction:
    """What the recipe asks for."""
    return Correction(stage.correction, stage.off_policy_mask, stage.correction is not None and _updates(stage) == 1)


def first_pass(scored: Sequence[ScoredGroup], stage: GrpoStage, learner: Learner) -> FirstPass:
    """The anchor of every completion and the routes that are replayed.

    They are the engine's own, or none. The learner's cost a forward pass: with several updates from one rollout, under
    a correction its probabilities, and under routing replay R2 its routes.

    Raises:
        TrainingFailure: the engine's routes are to be replayed, and it gave none.
    """
    replay = stage.experts.routing_replay
    sampled = engines_own(scored, replayed=replay == "sampler")
    if replay == "sampler" and any(routes is None for routes_G in sampled.routes_PG for routes in routes_G):
        raise TrainingFailure(
            "experts.routing_replay: sampler: the engine did not tell which experts it chose: say policy, or set "
            "rollout.engine: transformers"
        )
    corrected = stage.correction is not None and _updates(stage) > 1
    if not corrected and replay != "policy":
        return sampled
    own = _learner_pass(scored, stage, learner)
    return FirstPass(
        own.anchors_PG if corrected else sampled.anchors_PG, own.routes_PG if replay == "policy" else sampled.routes_PG
    )


def _updates(stage: GrpoStage) -> int:
    return stage.minibatches_per_step * stage.epochs_per_step


@torch.no_grad()
def _learner_pass(scored: Sequence[ScoredGroup], stage: GrpoStage, learner: Learner) -> FirstPass:
    """The learner's probabilities and routes of every completion; under R3 it follows the engine's here too."""
    accelerator, model = learner.accelerator, learner.model
    trajectories = [token_trajectory(group.group, c) for group in scored for c in group.group.completions]
    processes = accelerator.num_processes
    parts = split([t.tokens for t in trajectories], stage.tokens_per_micro_batch, processes, packs(model))
    mine: list[tuple[int, tuple[Logprobs, Routes | None]]] = []
    model.train(learner.dropout)
    for indices in parts[accelerator.process_index :: processes]:
        batch = make_batch([trajectories[i] for i in indices], accelerator.device)
        replayed = batch.sampler_routes_TLK if stage.experts.routing_replay == "sampler" else None
        with learner.autocast():
            compute = partial(target_logprobs, model, batch.tokens, stage.rollout.temperature)
            logprobs_N, routing = observe(model, batch.tokens, replayed, compute)
        lengths = [len(trajectories[i].tokens.target_ids) for i in indices]
        logprobs = [tuple(part.tolist()) for part in logprobs_N.cpu().split(lengths)]
        mine += zip(indices, zip(logprobs, _routes(routing, batch), strict=True), strict=True)
    everyone = dict(mine if processes == 1 else gather_object(mine))
    size = len(scored[0].group.completions)
    rows = [[everyone[p * size + g] for g in range(size)] for p in range(len(scored))]
    return FirstPass(
        [[logprobs for logprobs, _ in row] for row in rows], [[routes for _, routes in row] for row in rows]
    )


def _routes(routing: Routing | None, batch: Batch) -> list[Routes | None]:
    """What routers chose for each sequence."""
    places = token_indices(batch.tokens)
    if routing is None:
        return [None] * len(places)
    experts_TLK = routing.experts_LTK.transpose(0, 1).cpu()
    return [Routes.of(experts_TLK[place]) for place in places]
