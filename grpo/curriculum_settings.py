"""What a recipe may say about what changes on the way: problems by how hard they were, lengths, temperatures."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import Field

from grpo.settings import Count, Settings, Temperature


class CurriculumSettings(Settings):
    """Problems that are always or never solved teach nothing, and are passed over until they are tested again."""

    accuracy: str = Field("accuracy", description="the reward that says whether an answer is right")
    visits: Count = Field(2, description="visits in a row that must have all been right, or all wrong")
    retest_after: Count = Field(3, description="times that a problem is passed over before it is asked again")


class LongerFrom(Settings):
    """Another limit of completions from a step on. DeepSeek-R1-Zero went from 32,768 to 65,536 tokens at step 8,200."""

    step: Count
    max_new_tokens: Count


class TemperatureFrom(Settings):
    """Another temperature from a step on. A policy that has become certain needs a higher one to try anything else."""

    step: Count
    temperature: Temperature


Entry = TypeVar("Entry", LongerFrom, TemperatureFrom)


def begun(schedule: Sequence[Entry], step: int) -> Entry | None:
    """The entry in force at a step, None before the first."""
    return next((entry for entry in reversed(schedule) if entry.step <= step), None)


def unreached_entries(steps: int, **schedules: Sequence[LongerFrom | TemperatureFrom]) -> list[str]:
    """What a user should know of entries that begin after the last of a stage's steps, a sentence each."""
    return [
        f"{name}: the entry of step {entry.step} is never reached, as the stage ends with step {steps}"
        for name, schedule in schedules.items()
        for entry in schedule
        if entry.step > steps
    ]


def check_steps(name: str, schedule: Sequence[LongerFrom | TemperatureFrom]) -> None:
    """Raise ValueError unless the steps of a schedule rise."""
    steps = [entry.step for entry in schedule]
    if steps != sorted(set(steps)):
        raise ValueError(f"the steps of {name} must rise, got {steps}")
