"""What a stage that trains a reward model may say."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from grpo.expert_settings import ExpertSettings
from grpo.preference_settings import Part, RewardModelEvaluation, with_part
from grpo.problem_settings import ProblemSettings
from grpo.settings import Count, NonNegative, one_of
from grpo.training_settings import TrainingSettings


class RewardModelStage(TrainingSettings):
    """A scalar head that learns which of two responses is better, or whether one is good."""

    kind: Literal["reward_model"]
    problems: ProblemSettings
    objective: Literal["pairwise", "pointwise"] = "pairwise"
    judges: Part = Field(description="summary or response; left out, summary for pairs and response for labels")
    chosen_column: str = Field("chosen", description="the better response of a pair")
    rejected_column: str = Field("rejected", description="the other response of a pair")
    response_column: str = Field("response", description="the response that has a label, with pointwise")
    label_column: str = Field("label", description="1 or true: good, 0 or false: bad, with pointwise")
    center: NonNegative = Field(0.0, description="how hard the scores of pairs are kept around 0")
    max_tokens: Count = Field(8192, description="longer examples are left out, prompt included")
    examples_per_step: Count = 32
    steps: Count | None = None
    epochs: Count | None = None
    evaluation: RewardModelEvaluation = RewardModelEvaluation()

    @model_validator(mode="before")
    @classmethod
    def _judges_what_r1_does(cls, given: Any) -> Any:
        return with_part(given)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        one_of(self, "steps", "epochs")
        if any((source.weight, source.first_step) != (1, 1) for source in self.problems.sources or ()):
            raise ValueError("reads every source whole: leave weight and first_step out")
        return self

    @model_validator(mode="after")
    def _options_fit_the_objective(self) -> Self:
        if self.center and self.objective == "pointwise":
            raise ValueError("center is for pairs, whose scores are known up to a constant: leave it out")
        if self.experts != ExpertSettings():
            raise ValueError("experts are left as they are in a reward model: leave experts out")
        if self.problems.sources is not None:
            raise ValueError("a reward model learns from one source of pairs or labels: leave problems.sources out")
        if self.problems.held_out == 0:
            raise ValueError("a reward model is measured on held-out examples, got problems.held_out 0: raise it")
        return self
