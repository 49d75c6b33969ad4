"""What a stage of rejection sampling may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.engine_settings import EngineSettings
from grpo.problem_settings import ProblemSettings
from grpo.rejection_settings import DuplicateSettings, LayoutSettings, ReadableSettings
from grpo.reward_settings import RewardSettings, check_gates, check_reward_name, check_source_rewards
from grpo.settings import Count, Number, Positive, Settings, Share, Temperature
from grpo.stage_settings import StartingStage


class DecontaminateSettings(Settings):
    """Problems of evaluations, and whatever shares a run of words with one, are kept out of the data."""

    words: Count = Field(10, description="words of a run; shorter problems of evaluations are compared whole")
    common: Count = Field(10, description="a run that stands in more problems of evaluations than this is boilerplate")
    against: list[ProblemSettings] = Field([], description="sets beside those that the recipe's stages evaluate on")


class MixSettings(Settings):
    """Other examples to learn from, such as non-reasoning data: `ratio` of them for every kept sample."""

    problems: ProblemSettings
    ratio: Positive
    completion_column: str = "completion"
    write: str | None = Field(None, description="how it is written down, with {completion}; left out, as it is")

    @model_validator(mode="after")
    def _write_has_the_completion(self) -> Self:
        if self.write is not None and self.write.count("{completion}") != 1:
            raise ValueError("write must hold {completion}, once")
        return self

    @model_validator(mode="after")
    def _sources_are_drawn_from_alike(self) -> Self:
        if any(source.weight != 1 or source.first_step != 1 for source in self.problems.sources or ()):
            raise ValueError("weight and first_step are for steps: give each source its own entry of mix, with a ratio")
        return self

    def written(self, completion: str) -> str:
        """A completion as it becomes data."""
        return completion if self.write is None else self.write.replace("{completion}", completion)


class RejectionStage(StartingStage, EngineSettings):
    """Rejection sampling: several samples a problem, of which the right and readable ones become data."""

    kind: Literal["rejection"]
    problems: ProblemSettings
    rewards: list[RewardSettings] = Field(min_length=1)
    keep_if: dict[str, Number] = Field({"accuracy": 1.0}, min_length=1, description="rewards and what each must reach")
    samples: Count = Field(16, description="samples a problem; the R1 paper says several")
    limit: Count | None = Field(None, description="problems at most")
    max_per_problem: Count = Field(4, description="samples kept of a problem, the first ones")
    temperature: Temperature = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 256
    stop: list[str] = Field([])
    keep_stop: bool = Field(True, description="a stop text at the end is part of what is written down")
    precision: Literal["fp32", "bf16"] = "fp32"
    problems_per_chunk: Count = Field(64, description="problems sampled at a time; what a crash may cost")
    layout: LayoutSettings | None = LayoutSettings()
    readable: ReadableSettings | None = ReadableSettings()
    near_duplicates: DuplicateSettings | None = DuplicateSettings()
    decontaminate: DecontaminateSettings | None = DecontaminateSettings()
    mix: list[MixSettings] = Field([])
    max_reward_errors: Share = Field(0.1, description="share of a chunk's completions whose rewards may fail")

    @model_validator(mode="after")
    def _rewards_are_its_own(self) -> Self:
        for name in self.keep_if:
            check_reward_name("keep_if", name, self.rewards)
        check_gates(self.rewards)
        check_source_rewards(self.problems, self.rewards)
        return self
