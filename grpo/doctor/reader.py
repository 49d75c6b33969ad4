"""The findings of a run from what it has written down, whole or half, resumed or torn in the middle of a line."""

from collections.abc import Iterator
from pathlib import Path

from grpo.chain import chain
from grpo.doctor.chart import ENOUGH, Load, is_load
from grpo.doctor.finding import Finding
from grpo.doctor.rounds import Rounds
from grpo.lines import Row, walk
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


def is_long_enough(run_folder: Path) -> bool:
    """Whether a stage of training has come to the steps that findings need: before, nothing found says nothing."""
    links = chain(load_recipe(run_folder / "recipe.yaml"))
    stages = [run_folder / link.name for link in links if isinstance(link.stage, TrainingSettings)]
    return any(row["step"] >= ENOUGH for stage in stages for row in _steps(stage / "metrics.jsonl"))


def catch_up(rounds: Rounds, stage_folder: Path) -> None:
    """Make the rounds of the steps that a stage has logged."""
    for row, load in _with_loads(_steps(stage_folder / "metrics.jsonl"), _steps(stage_folder / "experts.jsonl")):
        rounds.after(row["step"], {name: value for name, value in row.items() if name not in NOT_FIGURES}, load)


NOT_FIGURES = ("step", "stage", "time")


def _with_loads(steps: Iterator[Row], loads: Iterator[Row]) -> Iterator[tuple[Row, Load | None]]:
    """Steps with the loads of their experts. Both are in order, so that one of each is in memory."""
    load = next(loads, None)
    for row in steps:
        while load is not None and load["step"] < row["step"]:
            load = next(loads, None)
        found = load["load"] if load is not None and load["step"] == row["step"] and is_load(load.get("load")) else None
        yield row, found


def _steps(log: Path) -> Iterator[Row]:
    """The whole lines of a log that are steps."""
    return (row for _, row in walk(log) if row is not None and isinstance(row.get("step"), int))
