"""What a recipe may say about which samples are worth learning from: their layout, their reading, their likeness."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.settings import Count, Number, Settings, Share


class LayoutSettings(Settings):
    """R1's layout: reasoning, then a summary. What does not have both is refused."""

    begin: str = Field("<think>", description="opens the reasoning; may be left to the prompt")
    end: Annotated[str, Field(min_length=1)] = Field("</think>", description="closes the reasoning")
    write: str | None = Field(
        None, description="how it is written down, with {reasoning} and {summary}; left out, as it was sampled"
    )

    @model_validator(mode="after")
    def _write_has_both(self) -> Self:
        if self.write is not None and not all(
            self.write.count(f"{{{part}}}") == 1 for part in ("reasoning", "summary")
        ):
            raise ValueError("write must hold {reasoning} and {summary}, each once")
        return self


class ReadableSettings(Settings):
    """When reasoning counts as readable. The R1 paper names the filters and gives no numbers."""

    language: str | None = Field("prompt", description="a code such as en, prompt for the prompt's, or null for any")
    language_share: Share = Field(0.95, description="share of words of the reasoning in that language at least")
    identify: bool = Field(True, description="tell languages of one script apart; off: by scripts alone")
    paragraph_words: Count | None = Field(300, description="words of a paragraph at most")
    code_blocks: bool = Field(False, description="whether fenced code may stand in the reasoning")


class DuplicateSettings(Settings):
    """When two completions are near-duplicates: most of their runs of words are the same."""

    similarity: Annotated[Number, Field(gt=0, le=1)] = Field(0.8, description="Jaccard similarity from which on")
    words: Count = Field(5, description="words of a run")


Reason = Literal["kept", "truncated", "unscorable", "layout", "mixed_language", "long_paragraph", "code_block",
                 "evaluation_overlap", "near_duplicate", "over_cap"]  # fmt: skip
"""What becomes of a candidate, in the order of the filters after `kept`; `reward/<name>`, below its bound, beside."""
