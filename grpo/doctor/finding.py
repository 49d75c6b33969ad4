"""What the doctor says: a finding, and the line of the recipe that it would change."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from grpo.doctor.chart import Chart


@dataclass(frozen=True)
class Finding:
    """A sickness of a stage, which is its folder's name, as it was seen from `first_step` to `last_step`.

    `change` is a line of the recipe with its present value and another: `stages.1.rollout.max_new_tokens: 512 -> 1024`.
    """

    name: str
    stage: str
    first_step: int
    last_step: int
    evidence: str
    change: str


def finding(chart: Chart, name: str, first_step: int, evidence: str, change: tuple[str, Any]) -> Finding:
    """A finding of the newest step; `change` is a key of the stage and the value that it should have."""
    key, value = change
    line = f"stages.{chart.index}.{key}: {written(present(chart.stage, key))} -> {written(value)}"
    return Finding(name, chart.name, first_step, chart.step, evidence, line)


def present(settings: Any, key: str) -> Any:
    """The value of a key such as `rewards.0.options.seconds`; None where it is not said."""
    for part in key.split("."):
        if isinstance(settings, list):
            settings = settings[int(part)]
        elif isinstance(settings, dict):
            settings = settings.get(part)
        else:
            settings = getattr(settings, part)
    return settings


def written(value: Any) -> str:
    """A value as a recipe has it.

    >>> written(None), written(True), written(1e-06), written({"kind": "token_truncate"})
    ('null', 'true', '1e-06', '{kind: token_truncate}')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(entry)}" for key, entry in value.items()) + "}"
    return str(value)
