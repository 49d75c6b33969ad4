"""What a recipe may say about advantages, a class a kind."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from grpo.settings import NonNegative, Settings, grpo_unless_said


class GroupAdvantage(Settings):
    """GRPO: (r - group mean) / (group std + epsilon)."""

    kind: Literal["grpo"] = "grpo"
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-6


class DrGrpoAdvantage(Settings):
    """Dr. GRPO: r - group mean."""

    kind: Literal["dr_grpo"]


class RlooAdvantage(Settings):
    """RLOO: r - mean of the others."""

    kind: Literal["rloo"]


class BatchStdAdvantage(Settings):
    """(r - group mean) / (std of the batch's rewards + epsilon)."""

    kind: Literal["batch_std"]
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-4


class ReinforcePlusPlusAdvantage(Settings):
    """REINFORCE++-baseline: r - group mean, whitened over the batch's sequences."""

    kind: Literal["reinforce_pp_baseline"]
    epsilon: NonNegative = 1e-8


class GdpoAdvantage(Settings):
    """GDPO: each reward normalised within its groups, then their weighted sum over the batch."""

    kind: Literal["gdpo"]
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-4


AdvantageSettings = Annotated[
    GroupAdvantage | DrGrpoAdvantage | RlooAdvantage | BatchStdAdvantage | ReinforcePlusPlusAdvantage | GdpoAdvantage,
    Field(discriminator="kind"),
    BeforeValidator(grpo_unless_said),
]
