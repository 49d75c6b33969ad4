"""What a recipe may say about the policy: its origin, its tokenizer, its adapters."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from grpo.settings import Count, Number, Positive, Settings, one_of


class TokenizerSettings(Settings):
    """A tokenizer made without a hub: raw bytes, or byte-level BPE trained on a text file."""

    kind: Literal["bytes", "bpe"] = "bytes"
    special_tokens: list[str] = Field([], description="texts that are one token each, such as <think>")
    corpus: str | None = None
    vocab_size: Count | None = None

    @model_validator(mode="after")
    def _bpe_needs_a_corpus(self) -> Self:
        given = self.corpus is not None, self.vocab_size is not None
        if given != ((True, True) if self.kind == "bpe" else (False, False)):
            raise ValueError("needs corpus and vocab_size for kind bpe, and neither for kind bytes")
        return self


class InitSettings(Settings):
    """A model made from scratch: a transformers model type and the keys of its config."""

    architecture: str
    config: dict[str, Any] = Field({})
    tokenizer: TokenizerSettings = TokenizerSettings()


class LoraSettings(Settings):
    """Low-rank adapters in place of full fine-tuning."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="in sft stages; elsewhere it is off")
    targets: list[str] | None = Field(
        None, description="module names, and experts for the routed ones; left out, those of the model's family"
    )


class ModelSettings(Settings):
    """The policy: a folder or hub name, or a model made from scratch."""

    path: str | None = None
    init: InitSettings | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraSettings | None = None
    mtp: Literal["keep", "add", "drop"] = Field(
        "keep", description="the layer of multi-token prediction; add: a new one where the model has none"
    )
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        one_of(self, "path", "init")
        return self
