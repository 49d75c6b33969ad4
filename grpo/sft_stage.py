"""What a stage of supervised fine-tuning may say."""

from typing import Literal, Self

from pydantic import Field, model_validator

from grpo.mtp_settings import MtpSettings
from grpo.problem_settings import ProblemSettings
from grpo.rejection_settings import LayoutSettings
from grpo.settings import Count, one_of
from grpo.teacher_settings import TeacherSettings
from grpo.training_settings import TrainingSettings


class SftStage(TrainingSettings):
    """Supervised fine-tuning on the completions of a data set."""

    kind: Literal["sft"]
    problems: ProblemSettings
    completion_column: str = "completion"
    layout: LayoutSettings | None = Field(None, description="each completion must have it, or else the run stops")
    examples_per_step: Count = 32
    steps: Count | None = None
    epochs: Count | None = None
    mtp: MtpSettings | None = Field(None, description="left out: as DeepSeek-V3, where the model has such a layer")
    teacher: TeacherSettings | None = Field(None, description="a model whose distributions are learned too")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        one_of(self, "steps", "epochs")
        if self.epochs is not None and len(self.problems.each) > 1:
            raise ValueError("epochs needs one source of problems, since several are drawn by their weights: say steps")
        return self

    @model_validator(mode="after")
    def _a_teacher_does_not_predict_further(self) -> Self:
        if self.teacher is not None and self.mtp is not None:
            raise ValueError(
                "mtp and teacher do not go together: a teacher teaches the next token alone; leave mtp out"
            )
        return self
