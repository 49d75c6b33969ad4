"""What a recipe may say. Every key is checked, every default is written here once, and an unknown key is an error.

A field's description says why its limits are what they are; error messages quote it.
"""

from typing import Annotated, Literal

from pydantic import Field

from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.model_settings import ModelSettings
from grpo.problem_settings import ProblemSettings
from grpo.rejection_stage import RejectionStage
from grpo.reward_model_stage import RewardModelStage
from grpo.reward_settings import RewardSettings
from grpo.settings import Settings
from grpo.sft_stage import SftStage

Stage = Annotated[SftStage | GrpoStage | RewardModelStage | RejectionStage | EvaluateStage, Field(discriminator="kind")]


class Recipe(Settings):
    """A whole run. `problems` and `rewards` serve every stage that has none of its own."""

    name: Annotated[
        str, Field(pattern=r"^\w[\w.-]*$", description="the name of the run's folder, of letters, digits, _ - .")
    ]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    output: str = Field("runs", description="the folder in which the run's folder lies")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field([])
    model: ModelSettings
    problems: ProblemSettings | None = None
    rewards: list[RewardSettings] | None = None
    stages: list[Stage] = Field(min_length=1)
