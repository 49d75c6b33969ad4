"""Policy-gradient losses: one small file a loss, all called alike on flat tokens."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from grpo.loss_settings import LossSettings
from grpo.losses.cispo import cispo_loss
from grpo.losses.dapo import dapo_loss
from grpo.losses.dr_grpo import dr_grpo_loss
from grpo.losses.gmpo import gmpo_loss
from grpo.losses.grpo import grpo_loss
from grpo.losses.gspo import gspo_loss
from grpo.losses.sapo import sapo_loss
from grpo.losses.surrogate import TokenLoss

__all__ = ["LOSSES", "Loss", "TokenLoss", "make_loss"]

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], TokenLoss]
"""Of policy_logprobs_N, sampler_logprobs_N, advantages_N and sequence_N: N trained tokens of whole sequences."""

LOSSES: dict[str, Callable[..., TokenLoss]] = {
    "grpo": grpo_loss,
    "dr_grpo": dr_grpo_loss,
    "dapo": dapo_loss,
    "gspo": gspo_loss,
    "cispo": cispo_loss,
    "gmpo": gmpo_loss,
    "sapo": sapo_loss,
}


def make_loss(settings: LossSettings) -> Loss:
    """Bind the recipe's options of a loss; its aggregation is the business of `sequence_weights`."""
    return partial(LOSSES[settings.kind], **settings.model_dump(exclude={"kind", "aggregation"}))
