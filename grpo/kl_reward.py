"""The KL penalty as part of the reward (PPO's and RLOO's place for it).

Axes: P prompts of a step, G completions of a prompt, N trained tokens of a micro-batch.
"""

from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from grpo.batch import make_batch
from grpo.experience import token_trajectory
from grpo.forward import packs, target_logprobs
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner
from grpo.losses.aggregation import sequence_sum
from grpo.losses.kl import kl_penalty
from grpo.policy import Reference
from grpo.split import split
from grpo.types import ScoredGroup


@torch.no_grad()
def sequence_kl(scored: Sequence[ScoredGroup], stage: GrpoStage, learner: Learner, reference: Reference) -> Tensor:
    """The sum over tokens of the KL estimate between sampler and reference, (P, G) in nats.

    The sampler is the policy of this step, so its logprobs stand for the policy's.
    """
    accelerator = learner.accelerator
    trajectories = [token_trajectory(group.group, c) for group in scored for c in group.group.completions]
    processes, share = accelerator.num_processes, packs(learner.model)
    groups = split([t.tokens for t in trajectories], stage.tokens_per_micro_batch, processes, share)
    mine: list[tuple[int, float]] = []
    for indices in groups[accelerator.process_index :: processes]:
        batch = make_batch([trajectories[i] for i in indices], accelerator.device)
        with learner.autocast(fp8=False), reference.model() as ref:
            ref_logprobs_N = target_logprobs(ref, batch.tokens, stage.rollout.temperature)
        sampler_N = batch.sampler_logprobs_N
        kl_N = kl_penalty(sampler_N, sampler_N, ref_logprobs_N, stage.kl.estimator)
        mine += zip(indices, sequence_sum(kl_N, batch.tokens.sequence_N, len(indices)).tolist(), strict=True)
    everyone = mine if accelerator.num_processes == 1 else gather_object(mine)
    return torch.tensor([value for _, value in sorted(everyone)], dtype=torch.float64).view(len(scored), -1)
