"""What a recipe may say about the loss of reinforcement learning: a class a kind, then the terms beside it."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from grpo.settings import Count, NonNegative, Number, Positive, Settings, grpo_unless_said

Aggregation = Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]


class GrpoLoss(Settings):
    """The clipped surrogate of PPO on token ratios. R1 uses clip 10."""

    kind: Literal["grpo"] = "grpo"
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.2
    dual_clip: Annotated[Number, Field(gt=1)] | None = Field(None, description="bound c of dual-clip PPO for A < 0")
    delta: Annotated[Number, Field(gt=1)] | None = Field(None, description="INTELLECT-2's upper bound of the ratio")
    aggregation: Aggregation = "seq-mean-token-mean"


class DrGrpoLoss(Settings):
    """Dr. GRPO: token sums over a constant length, so that length has no pull of its own."""

    kind: Literal["dr_grpo"]
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.2
    aggregation: Aggregation = "seq-mean-token-sum-norm"


class DapoLoss(Settings):
    """DAPO: clip-higher and the mean over all tokens of the minibatch."""

    kind: Literal["dapo"]
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.28
    aggregation: Aggregation = "token-mean"


class GspoLoss(Settings):
    """GSPO: one ratio a sequence, the geometric mean of its tokens' ratios. LUSPO is seq-mean-token-sum of it."""

    kind: Literal["gspo"]
    clip_low: NonNegative = 3e-4
    clip_high: NonNegative = 4e-4
    aggregation: Literal["seq-mean-token-mean", "seq-mean-token-sum"] = "seq-mean-token-mean"


class CispoLoss(Settings):
    """CISPO: REINFORCE weighted by a ratio that is clipped and carries no gradient."""

    kind: Literal["cispo"]
    clip_low: NonNegative | None = Field(None, description="left out: no lower bound, as in the paper")
    clip_high: NonNegative = Field(4.0, description="bound 1 + clip_high; 4 is ScaleRL's 5, the paper gives none")
    aggregation: Aggregation = "token-mean"


class GmpoLoss(Settings):
    """GMPO: the geometric mean of token ratios, each clipped in log space."""

    kind: Literal["gmpo"]
    log_clip_low: NonNegative = 0.4
    log_clip_high: NonNegative = 0.4
    aggregation: Literal["seq-mean-token-mean"] = "seq-mean-token-mean"


class SapoLoss(Settings):
    """SAPO: a sigmoid gate in place of the clip."""

    kind: Literal["sapo"]
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05
    aggregation: Aggregation = "seq-mean-token-mean"


LossSettings = Annotated[
    GrpoLoss | DrGrpoLoss | DapoLoss | GspoLoss | CispoLoss | GmpoLoss | SapoLoss,
    Field(discriminator="kind"),
    BeforeValidator(grpo_unless_said),
]


class KlSettings(Settings):
    """The penalty for leaving the reference model. beta 0 turns it off, and no reference is kept."""

    beta: NonNegative = 0.001
    estimator: Literal["k1", "k2", "k3", "ratio_k3"] = "k3"
    place: Literal["loss", "reward"] = "loss"
    refresh_reference_every: Count | None = Field(None, description="steps after which the policy becomes reference")

    @model_validator(mode="after")
    def _ratio_is_one_in_a_reward(self) -> Self:
        if self.place == "reward" and self.estimator == "ratio_k3":
            raise ValueError("estimator ratio_k3 belongs in the loss: in a reward the ratio is 1 and it is plain k3")
        return self

    @model_validator(mode="after")
    def _there_is_a_reference(self) -> Self:
        if self.beta == 0 and self.refresh_reference_every is not None:
            raise ValueError("refresh_reference_every needs a beta above 0: without a penalty no reference is kept")
        return self


class EntropySettings(Settings):
    """A bonus for entropy; with a target, its coefficient follows Skywork-OR1's adaptive rule."""

    bonus: NonNegative = 0.0
    target: Positive | None = None
    delta: NonNegative = Field(0.0, description="how far the coefficient moves a step when there is a target")

    @model_validator(mode="after")
    def _delta_has_a_target(self) -> Self:
        if self.delta and self.target is None:
            raise ValueError("delta needs a target: it moves the coefficient towards one")
        if self.target is not None and not (self.bonus or self.delta):
            raise ValueError("target needs a bonus or a delta: without them the coefficient stays 0")
        return self
