"""The findings of a run from what it has written down, whole or half, resumed or torn in the middle of a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo.chain import chain
from grpo.doctor.chart import Load
from grpo.doctor.finding import Finding
from grpo.doctor.rounds import Rounds
from grpo.recipe_file import load_recipe
from grpo.training_settings import TrainingSettings
from grpo.types import UserError


def examine(run_folder: Path) -> list[Finding]:
    """Everything that was found in a run, stage by stage, as the run itself said it while it went on.

    A finding whose `last_step` is the stage's last was there at the end; others were over before.

    Raises:
        UserError: there is no run in the folder, or its recipe cannot be read.
    """
    if not (run_folder / "recipe.yaml").is_file():
        raise UserError(f"{run_folder}: expected a run's folder, found no recipe.yaml in it; give runs/NAME")
    links = chain(load_recipe(run_folder / "recipe.yaml"))
    found: list[Finding] = []
    for link in links:
        if isinstance(link.stage, TrainingSettings):
            rounds = Rounds(link.name, link.number - 1, link.stage)
            catch_up(rounds, run_folder / link.name)
            found += rounds.findings
    return found


def catch_up(rounds: Rounds, stage_folder: Path) -> None:
    """Make the rounds of the steps that a stage has logged."""
    loads = {row["step"]: row["load"] for row in _rows(stage_folder / "experts.jsonl") if "load" in row}
    for row in _rows(stage_folder / "metrics.jsonl"):
        step: int = row["step"]
        load: Load | None = loads.get(step)
        rounds.after(step, {name: value for name, value in row.items() if name not in NOT_FIGURES}, load)


NOT_FIGURES = ("step", "stage", "time")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log that are steps. A process that is killed may leave half a line, the last one."""
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
