"""What a recipe may say about models of preference: what they judge, how they learn and how they are measured."""

from typing import Annotated, Any, Literal

from pydantic import Field

from grpo.settings import Count, Settings

Part = Literal["summary", "response"]
"""What of a response is judged: what comes after the chain of thought, or all of it (DeepSeek-R1, section 2.3.4)."""

Value = str | int | float | bool
Where = dict[str, Value | Annotated[list[Value], Field(min_length=1)]]
"""Names of columns, each with the value, or the values, that a problem must have there."""

R1_PARTS: dict[str, Part] = {"pairwise": "summary", "pointwise": "response"}
"""R1 judges helpfulness, learned from pairs, by the summary, and safety, learned from labels, by everything."""


def with_part(given: Any) -> Any:
    """A reward-model stage that does not say what it judges gets R1's choice for its objective."""
    if not isinstance(given, dict) or given.get("judges") is not None:
        return given
    part = R1_PARTS.get(given.get("objective", "pairwise"))
    return given | {"judges": part} if part else given


class RewardModelEvaluation(Settings):
    """How right a reward model is on held-out examples while it learns, and at its end."""

    every: Count = Field(50, description="steps between evaluations; there is one after the last step in any case")
    examples: Count = Field(1024, description="held-out examples at most")
