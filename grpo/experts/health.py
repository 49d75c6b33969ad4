"""How the routers of a policy fare, as figures and as what the log keeps of the load.

Axes: L routers, E experts of each, T packed tokens, K experts chosen for a token.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grpo.experts.observe import Routing
from grpo.experts.routing import expert_load, max_violation, relative_entropy
from grpo.tally import Tally

LOAD, TOKENS, ENTROPY, REROUTED, COMPARED = (f"experts/{name}" for name in ("load", "tokens", "entropy", "re", "of"))
"""Sums that a tally gathers over micro-batches and processes: load (L, E), the others (L,)."""


@torch.no_grad()
def routing_tally(routing: Routing, sampler_routes_TLK: Tensor | None = None) -> Tally:
    """What a micro-batch adds to the figures. Each sequence's tokens count, its prompt's too, and padding never."""
    weight_T, kind = routing.within.weight_T().double(), routing.router.scores
    load_LE = [
        expert_load(experts_TK, weight_T, logits_TE.shape[-1])
        for experts_TK, logits_TE in zip(routing.experts_LTK, routing.logits_TE, strict=True)
    ]
    entropy_L = [(weight_T * relative_entropy(logits_TE, kind)).sum() for logits_TE in routing.logits_TE]
    tokens_L = weight_T.sum().expand(len(entropy_L))
    tally = Tally().tensor(LOAD, torch.stack(load_LE)).tensor(ENTROPY, torch.stack(entropy_L)).tensor(TOKENS, tokens_L)
    if sampler_routes_TLK is not None:
        sampler_LTK = sampler_routes_TLK.to(routing.experts_LTK).transpose(0, 1)
        differs_LT = (routing.experts_LTK.sort(-1).values != sampler_LTK.sort(-1).values).any(-1)
        tally.tensor(REROUTED, (differs_LT * weight_T).sum(-1)).tensor(COMPARED, tokens_L)
    return tally


def router_figures(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """The figures of an update: of each router, by its number from 0, and over all of them.

    `max_violation` is MaxVio, `entropy` the mean over tokens as a share of ln E, `dead` the number of experts without a
    token, `rerouted` the share of tokens that engine and learner gave to different experts.
    """
    if LOAD not in sums:
        return {}
    columns = {
        "max_violation": max_violation(sums[LOAD]),
        "entropy": sums[ENTROPY] / sums[TOKENS],
        "dead": (sums[LOAD] == 0).sum(-1).double(),
    }
    if REROUTED in sums:
        columns["rerouted"] = sums[REROUTED] / sums[COMPARED]
    figures = {
        f"router/{name}": (values_L.sum() if name == "dead" else values_L.mean()).item()
        for name, values_L in columns.items()
    }
    return figures | {
        f"router/{layer}/{name}": value
        for name, values_L in columns.items()
        for layer, value in enumerate(values_L.tolist())
    }


def step_load(tallies: Sequence[Tally]) -> Tensor | None:
    """The load (L, E) over all updates of a step; None where no router was seen."""
    loads = [tally.tensors[LOAD] for tally in tallies if LOAD in tally.tensors]
    return torch.stack(loads).sum(0) if loads else None
