"""What a recipe may say about what is asked when: problems by how hard they have been, lengths by step."""

from collections.abc import Sequence

from pydantic import Field

from grpo.settings import Count, Settings


class CurriculumSettings(Settings):
    """Problems that are always or never solved teach nothing, and are passed over until they are tested again."""

    accuracy: str = Field("accuracy", description="the reward that says whether an answer is right")
    visits: Count = Field(2, description="visits in a row that must have all been right, or all wrong")
    retest_after: Count = Field(3, description="times that a problem is passed over before it is asked again")


class LongerFrom(Settings):
    """Another limit of completions from a step on. DeepSeek-R1-Zero went from 32,768 to 65,536 tokens at step 8,200."""

    step: Count
    max_new_tokens: Count


def check_steps(schedule: Sequence[LongerFrom]) -> None:
    """Raise ValueError unless the steps of a schedule rise."""
    steps = [entry.step for entry in schedule]
    if steps != sorted(set(steps)):
        raise ValueError(f"the steps of length_schedule must rise, got {steps}")
