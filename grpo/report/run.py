"""A run's folder as records: what it was to do, what it wrote down, how far it is."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grpo.lines import Row, read_log
from grpo.metrics import PHASES
from grpo.run_folder import ENVIRONMENT, RECIPE, is_complete
from grpo.types import UserError, one_line


@dataclass(frozen=True)
class Stage:
    """A stage of a run. `rows` are its figures in the order of their steps, each step's newest."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    folder: Path
    rows: Sequence[Row]
    complete: bool

    @property
    def key(self) -> str:
        """Its name without its number, by which the same stage of another recipe is found."""
        return self.name.partition("-")[2] or self.name

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def begun(self) -> bool:
        """Whether the stage has left anything."""
        return self.folder.is_dir()

    @property
    def seconds(self) -> float:
        """From the beginning of the first step to the end of the last, time in which the run did not run included."""
        stamps = [row["time"] for row in self.rows if isinstance(row.get("time"), int | float)]
        return max(stamps) - min(stamps) + phase_seconds(self.rows[:1]) if stamps else 0.0


@dataclass(frozen=True)
class Run:
    """A run: its recipe with every default, its environment, its stages, and what could not be read of it."""

    folder: Path
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    stages: Sequence[Stage]
    notices: Sequence[str]

    @property
    def name(self) -> str:
        """The folder's name, which tells apart the runs of one recipe."""
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """Read what a run has left so far.

    Raises:
        UserError: the folder is none of a run, or its recipe cannot be read.
    """
    recipe = _recipe(folder)
    settings = [stage for stage in recipe["stages"] if isinstance(stage, dict)]
    notices: list[str] = []
    stages = [_stage(folder, number, stage, notices) for number, stage in enumerate(settings, start=1)]
    return Run(folder, recipe, _environment(folder, notices), stages, notices)


def phase_seconds(rows: Sequence[Row]) -> float:
    """The seconds of all phases of some steps."""
    return sum(number(row.get(f"time/{phase}")) or 0.0 for row in rows for phase in PHASES)


def number(value: Any) -> float | None:
    """A figure, or None where it was not measured or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _recipe(folder: Path) -> dict[str, Any]:
    file = folder / RECIPE
    if not file.is_file():
        raise UserError(
            f"{folder}: expected the folder of a run, found no {RECIPE} in it; name one that grpo-train made"
        )
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {one_line(error)}; bring the file back") from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("stages"), list):
        raise UserError(f"{file}: expected a recipe with stages, got something else; bring the file back")
    return recipe


def _environment(folder: Path, notices: list[str]) -> dict[str, Any]:
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        notices.append(f"{ENVIRONMENT} is not there or cannot be read")
        return {}
    return found


def _check_within(run: Path, stage: str) -> None:
    """Raise UserError where a stage's name or a link leads out of the run: a page is made to be shown."""
    inside = re.fullmatch(r"[\w.-]+", stage) is not None
    for place in [run / stage, *(run / stage).glob("*.json*")] if inside else ():
        inside = inside and place.resolve().is_relative_to(run.resolve())
    if not inside:
        raise UserError(f"{run}: stage {stage[:60]!r} leads out of the run's folder: name a run that grpo-train made")


def _stage(run: Path, number: int, settings: Mapping[str, Any], notices: list[str]) -> Stage:
    kind = str(settings.get("kind", "stage"))
    name = f"{number:02d}-{settings.get('name') or kind}"
    _check_within(run, name)
    log = read_log(run / name / "metrics.jsonl")
    if log.broken:
        notices.append(f"{name}/metrics.jsonl: {log.broken} lines are no JSON and are left out")
    rows = [row for row in log.rows if isinstance(row.get("step"), int)]
    newest = {(row["step"], row.get("model"), row.get("template")): row for row in rows}
    in_order = sorted(newest.values(), key=lambda row: row["step"])
    return Stage(name, kind, settings, run / name, in_order, is_complete(run / name))
