"""What every stage that changes weights may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.expert_settings import ExpertSettings
from grpo.settings import Count, NonNegative, Number, Positive, Share
from grpo.stage_settings import StartingStage


class TrainingSettings(StartingStage):
    """What every stage that changes weights has in common."""

    lr: Positive
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_floor: Share = Field(0.0, description="share of lr that is left at the end of a linear or cosine schedule")
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0
    beta1: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive = 1.0
    precision: Literal["fp32", "bf16", "fp8_block"] = Field(
        "fp32", description="bf16: autocast, the weights themselves keep dtype; fp8_block: linear layers in FP8 besides"
    )
    tokens_per_micro_batch: Count = Field(4096, description="tokens computed at a time, a shared prompt counted once")
    activations: Literal["keep", "recompute", "offload"] = Field(
        "keep", description="between forward and backward pass: kept, computed twice, or moved to the CPU's memory"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="adamw_8bit needs the extra 8bit")
    experts: ExpertSettings = ExpertSettings()
    max_bad_steps: Count = Field(3, description="non-finite steps in a row before the run stops")
    checkpoint_every: Count = Field(10, description="steps between checkpoints")
    keep_last: Count = Field(2, description="checkpoints kept, the newest ones")
    keep_best: str | None = Field(
        None,
        description="a figure of metrics.jsonl: the best checkpoint of those at whose step it was measured is kept "
        "too; an evaluation that is the best so far is saved at once",
    )

    @model_validator(mode="after")
    def _floor_is_reached(self) -> Self:
        if self.lr_floor and self.lr_schedule == "constant":
            raise ValueError("lr_floor belongs to a linear or cosine lr_schedule")
        return self

    @property
    def sampling_precision(self) -> Literal["fp32", "bf16"]:
        """Of the policy when it is sampled from: FP8 is the learner's alone."""
        return "fp32" if self.precision == "fp32" else "bf16"
