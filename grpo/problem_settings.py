"""What a recipe may say about problems: where they come from, and how they become prompts."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from grpo.mixture_settings import SourceOptions, check_mixture, with_sources
from grpo.preference_settings import Where
from grpo.settings import Count, Number, Settings, one_of


class TemplateSettings(Settings):
    """How a problem becomes a prompt."""

    kind: Literal["plain", "r1_zero", "chat", "jinja"] = "chat"
    system: str | None = Field(None, description="the system prompt of a chat template")
    prefill: str = Field("", description="text that begins every completion, such as <think>")
    file: str | None = Field(None, description="the file of a Jinja template")
    examples: str | None = Field(None, description="a file of problems with `completion`, shown before every problem")
    separator: str | None = Field(
        None, description="what stands between examples, except in a chat, where they are turns; left out, a blank line"
    )

    @model_validator(mode="after")
    def _options_fit_the_kind(self) -> Self:
        if (self.kind == "jinja") != (self.file is not None):
            raise ValueError("needs file for kind jinja, and only there")
        if self.system is not None and self.kind != "chat":
            raise ValueError(f"system belongs to kind chat, not to kind {self.kind}")
        if self.separator is not None and (self.examples is None or self.kind == "chat"):
            raise ValueError("separator belongs to examples of a kind other than chat")
        return self


class ProblemSettings(Settings):
    """Where problems come from, how they are split, and how they become prompts."""

    sources: Annotated[list["SourceSettings"], Field(min_length=1)] | None = Field(
        None, description="several sources with weights; problems may be their list alone"
    )
    path: str | None = Field(None, description="a .jsonl, .parquet or .csv file")
    dataset: str | None = Field(None, description="a data set of the Hugging Face hub")
    task: str | None = Field(None, description="a task of reasoning-gym")
    function: str | None = Field(None, description="file.py:function or package.module:function, yielding mappings")
    stage: str | None = Field(None, description="an earlier stage that leaves data")
    params: dict[str, Any] = Field({}, description="parameters of the task or function")
    config: str | None = Field(None, description="the configuration of a hub data set")
    split: str | None = Field(None, description="the split of a hub data set; left out, train")
    size: Count | None = Field(None, description="how many problems to generate or read")
    columns: dict[str, str] = Field({}, description="our name for a column: its name in the data")
    where: Where = Field({}, description="columns and values of the rows that are taken; left out, all of them")
    held_out: Annotated[Number, Field(ge=0, lt=1)] = Field(0.1, description="share kept out of training, by hash")
    template: TemplateSettings = TemplateSettings()
    max_prompt_tokens: Count = 1024
    long_prompts: Literal["drop", "error"] = "drop"
    too_few: Literal["error", "wrap"] = Field("error", description="what to do with less data than one step takes")

    @model_validator(mode="before")
    @classmethod
    def _sources_share_what_is_said_once(cls, given: Any) -> Any:
        return with_sources(given)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        one_of(self, "path", "dataset", "task", "function", "stage", "sources")
        if self.params and self.task is None and self.function is None:
            raise ValueError("params belongs to task or function")
        if self.dataset is None and (self.config is not None or self.split is not None):
            raise ValueError("config and split belong to dataset")
        if self.task is not None and self.size is None:
            raise ValueError("size is needed with task: how many problems to generate")
        return self

    @model_validator(mode="after")
    def _sources_can_be_told_apart(self) -> Self:
        sources = self.sources or []
        check_mixture([source.shown_as for source in sources], [source.first_step for source in sources])
        return self

    @property
    def each(self) -> list["SourceSettings"] | list["ProblemSettings"]:
        """The sources of a mixture, or these settings alone."""
        return self.sources or [self]

    @property
    def names(self) -> list[str]:
        """What figures call each of them; empty where there is one."""
        return [source.shown_as for source in self.sources] if self.sources else [""]

    @property
    def holds_out(self) -> bool:
        """Whether any problem can be held out."""
        return any(source.held_out > 0 for source in self.each)

    @property
    def longest_prompt(self) -> int:
        """The most tokens that a prompt may have."""
        return max(source.max_prompt_tokens for source in self.each)


class SourceSettings(ProblemSettings, SourceOptions):
    """One source of a mixture: problems, and how they are mixed in."""

    @model_validator(mode="after")
    def _is_no_mixture(self) -> Self:
        if self.sources is not None:
            raise ValueError("a source has no sources of its own: list them all side by side")
        return self

    @property
    def shown_as(self) -> str:
        """Its name in figures and samples."""
        origin = self.label or self.task or self.path or self.dataset or self.function or self.stage or ""
        return origin.rstrip("/").rpartition("/")[2].rpartition(":")[2].removesuffix(".jsonl")
