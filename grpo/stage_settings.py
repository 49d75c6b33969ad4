"""What every stage may say about its place in the run: its name, and the model that it starts from."""

from typing import Annotated

from pydantic import Field

from grpo.settings import Settings

StageName = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]


class NamedStage(Settings):
    """A stage, which may have a name of its own."""

    name: StageName | None = Field(
        None, description="its folder is its number and this name, of letters, digits, _ and -; left out, its kind"
    )


class StartingStage(NamedStage):
    """A stage that reads a model."""

    start: str = Field("previous", description="previous, base, the name of an earlier stage, or a model's path")
