"""What a recipe may say about a model to learn from."""

from typing import Literal

from pydantic import Field

from grpo.settings import Settings, Share


class TeacherSettings(Settings):
    """A model whose distributions are learned: forward KL over the whole vocabulary beside cross-entropy."""

    path: str = Field(description="a folder or hub name of a model with the same tokenizer")
    share: Share = Field(0.9, description="of KL in the loss; cross-entropy has the rest")
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = Field(False, description="run code from the teacher's folder, as model.trust_remote_code")
