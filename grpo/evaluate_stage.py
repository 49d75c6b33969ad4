"""What a stage that measures models may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.engine_settings import EngineSettings
from grpo.problem_settings import ProblemSettings
from grpo.reward_settings import RewardSettings, check_gates, check_reward_name, check_source_rewards
from grpo.settings import Count, Number, Temperature
from grpo.stage_settings import NamedStage


class EvaluateStage(NamedStage, EngineSettings):
    """Accuracy on held-out problems: greedy, pass@k and cons@k over samples, each with a 95 % interval."""

    kind: Literal["evaluate"]
    problems: ProblemSettings
    rewards: list[RewardSettings] = Field(min_length=1)
    accuracy: str = Field("accuracy", description="the reward that says whether an answer is right")
    part: Literal["held_out", "train", "all"] = "held_out"
    limit: Count = Field(256, description="problems evaluated at most")
    models: list[str] | None = Field(None, description="base, stages or paths; left out, base and every model so far")
    templates: list[Literal["training", "native"]] = Field(
        ["training"], min_length=1, description="the problems' own template, the model's own chat template, or both"
    )
    greedy: bool = Field(True, description="one completion of the likeliest tokens a problem")
    samples: Annotated[int, Field(ge=0)] = Field(8, description="samples a problem for pass@k; 0: greedy only")
    k: list[Count] = Field([1, 4, 8], min_length=1)
    cons: list[Count] = Field([], description="k of cons@k: how often the majority of k samples is right")
    temperature: Temperature = 0.6
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Count = 256
    stop: list[str] = Field([])
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _k_fits_the_samples(self) -> Self:
        if self.samples and max(self.k) > self.samples:
            raise ValueError(f"k must be at most samples ({self.samples}), got {max(self.k)}")
        if max(self.cons, default=0) > self.samples:
            raise ValueError(f"cons must be at most samples ({self.samples}), got {max(self.cons)}")
        if len(set(self.templates)) < len(self.templates):
            raise ValueError(f"templates must differ, got {', '.join(self.templates)}")
        if not self.samples and not self.greedy:
            raise ValueError("needs samples, or greedy: without both there is nothing to measure")
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Self:
        if self.part == "held_out" and not self.problems.holds_out:
            raise ValueError("part held_out needs such problems, got problems.held_out 0: raise it, or say part: train")
        return self

    @model_validator(mode="after")
    def _reward_is_its_own(self) -> Self:
        check_reward_name("accuracy", self.accuracy, self.rewards)
        check_gates(self.rewards)
        check_source_rewards(self.problems, self.rewards)
        return self
