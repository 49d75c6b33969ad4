"""What a stage is given: its place in the run, the model it starts from, and the run's means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from grpo.chain import EvaluatedSet
from grpo.display import Display
from grpo.model_settings import ModelSettings


@dataclass(frozen=True)
class StageRun:
    """A stage's surroundings.

    `models` holds every policy so far by name, `base` and the earlier stages' folders; `reward_models` those earlier
    stages that judge, by the names that the stage's rewards give them. `evaluated` are the sources of problems that the
    recipe evaluates on.
    """

    number: int
    folder: Path
    seed: int
    model: ModelSettings
    start_model: str
    models: Mapping[str, str]
    accelerator: Accelerator
    display: Display
    evaluated: Sequence[EvaluatedSet] = ()
    reward_models: Mapping[str, str] = field(default_factory=dict)
