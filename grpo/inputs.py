"""What a stage was given, remembered, so that a stage whose model or data has changed since is not silently reused."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpo.files import write_atomic
from grpo.types import Problem, UserError

INPUTS = "inputs.json"
FILES = ("the template's file", "the reward's file")
"""How the names begin of inputs that a stage may have begun without: earlier versions did not remember them."""

WINDOW, WINDOWS = 2**16, 16
"""Bytes and number of the pieces of a large file that are looked at; training moves every weight."""


def data_digest(problems: Iterable[Problem]) -> str:
    """A hash of every row, in order. An object that JSON has not counts by its type: its text may hold an address."""
    digest = hashlib.sha256()
    for problem in problems:
        row = [problem.prompt, dict(problem.columns)]
        digest.update(json.dumps(row, sort_keys=True, default=lambda thing: type(thing).__qualname__).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def file_digest(path: str) -> str:
    """A hash of a file's content. Raises UserError where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}: correct the path") from None


def model_digest(path: str) -> str:
    """A hash of a model's folder: names, sizes, and pieces of every file. A model of the hub goes by its name."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            for piece in _pieces(file):
                digest.update(piece)
    return digest.hexdigest()[:16]


def _pieces(file: Path) -> Iterable[bytes]:
    """All of a small file; evenly spread windows of a large one."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= WINDOW * WINDOWS:
            yield opened.read()
            return
        for number in range(WINDOWS):
            opened.seek((size - WINDOW) * number // (WINDOWS - 1))
            yield opened.read(WINDOW)


def check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Remember what a stage is given when it begins, and compare when the run comes by again.

    Raises:
        UserError: it was given something else before.
    """
    file = folder / INPUTS
    if not file.exists():
        if not (folder / "complete.json").exists():
            write_atomic(file, json.dumps(dict(inputs), indent=2) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    known = [name for name in inputs if name in before or not name.startswith(FILES)]
    changed = [name for name in [*known, *before] if before.get(name) != inputs.get(name)]
    if changed:
        raise UserError(
            f"{folder.name}: {changed[0]} has changed since this stage began: bring it back as it was, or add --from "
            f"{folder.name} to do this stage and those after it again (what they left is kept)"
        )
