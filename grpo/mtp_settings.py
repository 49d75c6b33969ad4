"""What a recipe may say about multi-token prediction: its loss in training, and drafts from it in sampling."""

from typing import Any, Literal

from pydantic import Field

from grpo.settings import Count, NonNegative, Settings, Share


class MtpSettings(Settings):
    """The loss of multi-token prediction in supervised fine-tuning; weight 0 leaves the layer as it is."""

    weight: NonNegative = Field(0.3, description="lambda of DeepSeek-V3; the layer's loss counts this much")
    later_weight: NonNegative = Field(0.1, description="lambda at the end of training")
    later_from: Share = Field(
        0.676, description="share of the steps before later_weight; V3: 10 of 14.8 trillion tokens"
    )
    trunk: Literal["train", "detach"] = Field(
        "train", description="train: the loss reaches the whole model; detach: the layer of prediction alone"
    )

    @property
    def trains(self) -> bool:
        """Whether any step moves the layer."""
        return self.weight > 0 or self.later_weight > 0

    def weight_at(self, step: int, steps: int) -> float:
        """The weight in the step with this number, counted from 0."""
        return self.weight if step < self.later_from * steps else self.later_weight


class RlMtpSettings(MtpSettings):
    """The same in reinforcement learning: rewards alone move the policy, and the layer learns to follow it."""

    weight: NonNegative = 0.1
    trunk: Literal["train", "detach"] = "detach"


UNMOVED = MtpSettings(weight=0, later_weight=0)
"""The layer stays as it is."""


class SpeculativeSettings(Settings):
    """Drafts of the policy's own layer of multi-token prediction, each verified by the policy."""

    min_acceptance: Share = Field(0.3, description="a completion whose drafts are right less often goes on without")
    patience: Count = Field(16, description="drafts of a completion before min_acceptance counts")


def speculative_of_a_word(value: Any) -> Any:
    """`speculative: true` says enough, and false is nothing."""
    return ({} if value else None) if isinstance(value, bool) else value
