"""What a recipe may say about a mixture of experts: how its load is kept even, and what routing is replayed."""

from typing import Literal

from pydantic import Field

from grpo.settings import NonNegative, Settings


class ExpertSettings(Settings):
    """How the load of experts is kept even. Nothing is done by default.

    DeepSeek-V3 was pretrained with a bias update of 1e-3 and a sequence balance loss of 1e-4, and with its bias frozen
    for the last 500 billion tokens (arXiv 2412.19437, section 4.2): a trained model has the balance that it needs, one
    made from scratch has none.
    """

    bias_update_rate: NonNegative = Field(
        0.0, description="DeepSeek-V3's gamma: what a router's bias moves by after an update, against the load"
    )
    sequence_balance_loss: NonNegative = Field(0.0, description="DeepSeek-V3's alpha: weight of the loss a sequence")
    auxiliary_loss: NonNegative = Field(
        0.0, description="weight of the classical loss over the whole batch, transformers' router_aux_loss_coef"
    )


class GrpoExpertSettings(ExpertSettings):
    """The same, and whose choice of experts the learner follows.

    `policy` is routing replay R2: that of the learner before its first update from a rollout. `sampler` is R3 (arXiv
    2510.11370): the engine's.
    """

    routing_replay: Literal["none", "policy", "sampler"] = "none"
