"""What a recipe may say about problems from several sources."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from grpo.settings import Count, Positive, Settings

SAID_ONCE = ("template", "held_out", "max_prompt_tokens", "long_prompts", "too_few")
"""Keys beside `sources` that hold for every source without its own."""


class SourceOptions(Settings):
    """How a source is mixed in."""

    label: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="its name in figures; left out, that of the task, file or function"
    )
    weight: Positive = Field(1.0, description="its share of what is drawn, against the other sources' weights")
    first_step: Count = Field(1, description="the step of the stage from which on it is drawn")
    rewards: list[str] | None = Field(
        None, min_length=1, description="the rewards of the stage that judge it; left out, all of them"
    )


def with_sources(given: Any) -> Any:
    """A mixture as it is checked: a list is short for `sources`, which take over the keys beside them.

    Raises:
        ValueError: a key beside `sources` that belongs to a source.
    """
    if isinstance(given, list):
        given = {"sources": given}
    if not isinstance(given, dict) or not isinstance(given.get("sources"), list):
        return given
    for key in ("size", "columns", "where", "config", "split"):
        if given.get(key):
            raise ValueError(f"{key} belongs to each of the sources")
    shared = {key: given[key] for key in SAID_ONCE if key in given}
    return given | {"sources": [shared | one if isinstance(one, dict) else one for one in given["sources"]]}


def check_mixture(names: Sequence[str], first_steps: Sequence[int]) -> None:
    """Raise ValueError when two sources have one name in figures, or none is drawn from at the first step."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two of the sources are called {twice[0]!r} in figures: give one a label")
    if first_steps and min(first_steps) > 1:
        raise ValueError(f"one of the sources needs first_step 1, got {min(first_steps)} as the least")
