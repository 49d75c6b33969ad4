"""What every part of a recipe is made of: strict models, and numbers with their limits."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number_from_text(value: Any) -> Any:
    """YAML 1.1 reads `1e-6` as text; here it is the number it looks like."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number_from_text), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Temperature = Annotated[Number, Field(ge=0.01, le=2)]  # where vLLM samples at what it is told
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A part of a recipe: strict, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def one_of(settings: Settings, *names: str) -> None:
    """Raise ValueError unless exactly one of these fields is given."""
    given = [name for name in names if getattr(settings, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}, got {', '.join(given) or 'none'}")


def grpo_unless_said(value: Any) -> Any:
    """An advantage or a loss without a kind is GRPO's, so that `loss: {clip_high: 10}` says enough."""
    return {"kind": "grpo"} | value if isinstance(value, dict) else value
