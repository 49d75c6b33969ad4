"""The load of a whole minibatch, before its losses are computed: the auxiliary loss is about all of it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from grpo.experts.health import routing_tally
from grpo.experts.observe import observe
from grpo.experts.terms import BalanceLoss
from grpo.forward import target_logprobs
from grpo.learner import Learner, everyones
from grpo.tally import Tally
from grpo.types import PackedTokens


def balance_of(
    learner: Learner, parts: Sequence[PackedTokens], replayed_TLK: Sequence[Tensor | None] = ()
) -> BalanceLoss:
    """The balance terms of a minibatch in micro-batches.

    With an auxiliary loss and several micro-batches, a forward pass over all of them comes first, through the routes
    that are replayed, one tensor a micro-batch.
    """
    settings = learner.settings.experts
    sequences = sum(len(group.completions) for tokens in parts for group in tokens.groups)
    ahead = settings.auxiliary_loss and len(parts) > 1
    return BalanceLoss(
        settings, max(1, sequences), _load(learner, parts, replayed_TLK or [None] * len(parts)) if ahead else None
    )


@torch.no_grad()
def _load(learner: Learner, parts: Sequence[PackedTokens], replayed_TLK: Sequence[Tensor | None]) -> Tally:
    learner.model.eval()  # without dropout, which would draw other numbers than the pass that counts
    tally = Tally()
    mine = slice(learner.accelerator.process_index, None, learner.accelerator.num_processes)
    for tokens, routes in zip(parts[mine], replayed_TLK[mine], strict=True):
        with learner.autocast():
            _, routing = observe(learner.model, tokens, routes, partial(target_logprobs, learner.model, tokens))
        if routing is not None:
            tally.merge(routing_tally(routing))
    return everyones(tally, learner.accelerator)
