"""What a recipe may say about the gap between the engine's probabilities and the learner's own of the same tokens."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from grpo.settings import NonNegative, Positive, Settings


class TokenTruncate(Settings):
    """Truncated importance sampling a token: min(rho, high)."""

    kind: Literal["token_truncate"]
    high: Positive = 2.0


class SequenceTruncate(Settings):
    """Truncated importance sampling a sequence: min(product of rho, high)."""

    kind: Literal["sequence_truncate"]
    high: Positive = 2.0


class Band(Settings):
    """A range of rho that counts."""

    low: NonNegative
    high: Positive

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"needs low below high, got {self.low} and {self.high}: nothing would be trained on")
        return self


class TokenMask(Band):
    """IcePop: rho where it lies in [low, high], 0 elsewhere."""

    kind: Literal["token_mask"]
    low: NonNegative = 0.5
    high: Positive = 5.0


class SequenceMask(Band):
    """As token_mask, with the product of rho over the sequence."""

    kind: Literal["sequence_mask"]
    low: NonNegative = 0.0
    high: Positive = 3.0


class GeometricMask(Band):
    """1 where the geometric mean of rho over the sequence lies in [low, high], 0 elsewhere, whatever the length."""

    kind: Literal["geometric_mask"]
    low: NonNegative = 0.999
    high: Positive = 1.001


CorrectionSettings = Annotated[
    TokenTruncate | SequenceTruncate | TokenMask | SequenceMask | GeometricMask, Field(discriminator="kind")
]


class OffPolicyMask(Settings):
    """DeepSeek-V3.2: sequences with a negative advantage that the policy has left behind are not trained on."""

    delta: Positive = Field(0.5, description="nats a token between sampler and policy; the paper gives no value")
