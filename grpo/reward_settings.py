"""What a recipe may say about rewards, and that what names one names one of its stage."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grpo.preference_settings import Where
from grpo.problem_settings import ProblemSettings
from grpo.settings import Number, Positive, Settings


class Gate(Settings):
    """A condition on another reward: what is gated counts as 0 where that reward is below `at_least`."""

    reward: str
    at_least: Number = 1.0


def _gate_of_a_name(value: Any) -> Any:
    """`only_if: format` says enough."""
    return {"reward": value} if isinstance(value, str) else value


class RewardSettings(Settings):
    """One reward: a built-in name, package.module:function or file.py:function."""

    name: str
    label: str | None = Field(None, description="its name in figures and samples; left out, the function's")
    weight: Number = 1.0
    options: dict[str, Any] = Field({}, description="keyword arguments of the reward")
    clip: tuple[Number, Number] | None = Field(None, description="the least and the most that it counts as")
    only_if: Annotated[Gate, BeforeValidator(_gate_of_a_name)] | None = Field(
        None, description="a reward that must be reached for this one to count: else it counts as 0"
    )
    where: Where = Field({}, description="columns and values of the problems it is for; left out, all of them")
    isolate: bool = Field(False, description="call it in worker processes that are killed when they take too long")
    seconds: Positive = Field(10.0, description="how long a call may take when isolate is on")
    memory_gb: Positive = Field(4.0, description="address space of a worker when isolate is on")

    @field_validator("clip", mode="before")
    @classmethod
    def _pair_of_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _clip_is_a_range(self) -> Self:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError(f"clip must be the least and the most, got {list(self.clip)}")
        return self

    @property
    def shown_as(self) -> str:
        """The reward's name in figures, samples and other keys of the recipe."""
        return self.label or self.name.rpartition(":")[2]


def check_reward_name(key: str, name: str, rewards: list[RewardSettings]) -> None:
    """A reward that a key names is one of the stage's own."""
    known = [reward.shown_as for reward in rewards]
    if name not in known:
        raise ValueError(f"{key} must name one of the rewards ({', '.join(known)}), got {name!r}")


def check_gates(rewards: list[RewardSettings]) -> None:
    """A reward that another one waits for is of the same stage."""
    for reward in rewards:
        if reward.only_if is not None:
            check_reward_name(f"only_if of {reward.shown_as}", reward.only_if.reward, rewards)
            if reward.only_if.reward == reward.shown_as:
                raise ValueError(f"only_if of {reward.shown_as} names itself: name another reward")


def check_source_rewards(problems: ProblemSettings, rewards: list[RewardSettings]) -> None:
    """What a source is judged by are rewards of the stage."""
    for source in problems.sources or ():
        for name in source.rewards or ():
            check_reward_name(f"rewards of source {source.shown_as}", name, rewards)
