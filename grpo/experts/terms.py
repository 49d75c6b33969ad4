"""What a mixture of experts adds to a minibatch: terms of its loss, and after the update a step of its biases.

Axes: L routers, E experts of each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grpo.expert_settings import ExpertSettings
from grpo.experts.health import LOAD, TOKENS, routing_tally
from grpo.experts.observe import Routing, bias_buffers, routers_of, set_biases
from grpo.experts.routing import auxiliary_balance, probabilities, sequence_balance, stepped_bias
from grpo.tally import Tally
from grpo.types import UserError


@dataclass(frozen=True)
class BalanceLoss:
    """The balance terms of a minibatch of so many `sequences`.

    The sequence loss is a mean over sequences and a sum over routers, as in DeepSeek-V3; the auxiliary loss a mean over
    routers, in transformers' scale, and asks for the `load` of all micro-batches where there are several.
    """

    settings: ExpertSettings
    sequences: int
    load: Tally | None = None

    def added(
        self, loss: Tensor, tally: Tally, routing: Routing | None, sampler_routes_TLK: Tensor | None = None
    ) -> tuple[Tensor, Tally]:
        """A micro-batch's loss with its share of the weighted terms, and its tally with the routers' figures."""
        if routing is None:
            return loss, tally
        here = routing_tally(routing, sampler_routes_TLK)
        tally.merge(here)
        if self.settings.sequence_balance_loss:
            term = self._over_sequences(routing)
            tally.mean("router/sequence_balance_loss", term.item(), len(routing.within.member_SG) / self.sequences)
            loss = loss + self.settings.sequence_balance_loss * term
        if self.settings.auxiliary_loss:
            sums = (self.load or here).tensors
            tokens = sums[TOKENS][0].item()
            term = self._auxiliary(routing, sums[LOAD], tokens)
            tally.mean("router/auxiliary_loss", term.item(), routing.within.weight_T().sum().item() / tokens)
            loss = loss + self.settings.auxiliary_loss * term
        return loss, tally

    def _over_sequences(self, routing: Routing) -> Tensor:
        top_k, kind = routing.experts_LTK.shape[-1], routing.router.scores
        terms = [sequence_balance(logits_TE, top_k, kind, routing.within).sum() for logits_TE in routing.logits_TE]
        return torch.stack(terms).sum() / self.sequences

    def _auxiliary(self, routing: Routing, load_LE: Tensor, tokens: float) -> Tensor:
        weight_T, kind = routing.within.weight_T(), routing.router.scores
        terms = [
            auxiliary_balance(probabilities(logits_TE, kind), weight_T, load_E, tokens)
            for logits_TE, load_E in zip(routing.logits_TE, load_LE, strict=True)
        ]
        return torch.stack(terms).mean()


NO_BALANCE = BalanceLoss(ExpertSettings(), 1)
"""No terms."""


def require_routers(model: nn.Module, settings: ExpertSettings) -> None:
    """Raise UserError when a model's routers are not found, or something is asked of experts and it has none."""
    routers = routers_of(model)
    if settings != type(settings)() and not routers:
        raise UserError(
            f"experts: expected a model with routers, got a dense {type(model).__name__}: leave experts out"
        )


@torch.no_grad()
def step_biases(model: nn.Module, load_LE: Tensor, rate: float) -> None:
    """Move every router's bias against the load of a whole update."""
    stepped = [stepped_bias(bias, load_E, rate) for bias, load_E in zip(bias_buffers(model), load_LE, strict=True)]
    set_biases(model, stepped)


def bias_range(model: nn.Module) -> float:
    """How far the biases of a router lie apart, the mean over routers."""
    biases = bias_buffers(model)
    return sum((bias.max() - bias.min()).item() for bias in biases) / len(biases)
