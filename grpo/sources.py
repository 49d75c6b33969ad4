"""Reads problems: from a file, a hub data set, a reasoning-gym task or a user's function."""

import csv
import hashlib
import inspect
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from grpo.plugins import load_object
from grpo.problem_settings import ProblemSettings
from grpo.tasks.gym import gym_rows
from grpo.types import Problem, UserError, one_line
from grpo.where import matches

Row = tuple[str, Mapping[str, Any]]
"""A row of the data after the place it stands at, as an error names it."""


def read_problems(settings: ProblemSettings, seed: int = 0) -> list[Problem]:
    """Every problem of the source in its order, duplicates included: at most `size` of those that `where` matches.

    `seed` makes a reasoning-gym task's problems, unless `params` has a seed of its own.

    Raises:
        UserError: the source is missing, unreadable or empty, or a row lacks a column or a text prompt.
    """
    every = (_problem(place, row, settings.columns) for place, row in _rows(settings, seed))
    problems = list(islice((one for one in every if matches(settings.where, one.columns)), settings.size))
    if not problems:
        whose = f" where {settings.where}" if settings.where else ""
        raise UserError(f"{origin(settings)}: expected at least one problem{whose}, got none: give data with rows")
    return problems


def first_row(path: Path) -> Mapping[str, Any]:
    """The first row of a file, as it stands there. Raises UserError when there is none."""
    for _, row in _file_rows(path):
        return row
    raise UserError(f"{path}: expected at least one problem, got none: give data with rows")


def problem_id(prompt: str, columns: Mapping[str, Any]) -> str:
    """16 hex digits that depend on the prompt and the `answer` column alone, and are the same on every machine."""
    content = json.dumps([prompt, columns.get("answer")], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _problem(place: str, row: Mapping[str, Any], names: Mapping[str, str]) -> Problem:
    wanted = {"prompt": "prompt", **names}
    for ours, theirs in wanted.items():
        if theirs not in row:
            raise UserError(
                f"{place}: expected a column {theirs!r}, got {', '.join(map(str, row)) or 'none'}: "
                f"name the right one in the recipe, as in columns: {{{ours}: <its name in the data>}}"
            )
    columns = {**row, **{ours: row[theirs] for ours, theirs in wanted.items()}}
    prompt = _checked(columns.pop("prompt"), f"{place}: column {wanted['prompt']!r}")
    return Problem(problem_id(prompt, columns), prompt, columns)


def is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can write: a JSON file may hold half of a pair of surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _checked(prompt: Any, place: str) -> str:
    if not isinstance(prompt, str):
        advice = "give the text of the user's message, from which template kind chat builds messages"
        raise UserError(f"{place} expected text, got {type(prompt).__name__}: {advice}")
    if not prompt or not is_text(prompt):
        raise UserError(f"{place} expected text, got {prompt[:40]!r}: correct or remove the row")
    return prompt


def origin(settings: ProblemSettings) -> str:
    """The source's name, or those of a mixture's, as errors and tables have it."""
    if settings.sources is not None:
        return ", ".join(map(origin, settings.sources))
    return str(settings.path or settings.dataset or settings.task or settings.function or settings.stage)


def same_problems(one: ProblemSettings, other: ProblemSettings) -> bool:
    """Whether two sources read the very same rows, however they split, take and show them."""
    return _data(one) == _data(other)


def _data(settings: ProblemSettings) -> Mapping[str, Any]:
    named = {"path", "dataset", "config", "task", "function", "stage", "params"}
    return settings.model_dump(include=named) | {"split": settings.split or "train"}


def _rows(settings: ProblemSettings, seed: int) -> Iterator[Row]:
    if settings.path is not None:
        return _file_rows(Path(settings.path))
    if settings.dataset is not None:
        return _numbered(settings.dataset, _hub_rows(settings.dataset, settings.config, settings.split or "train"))
    if settings.function is not None:
        return _numbered(settings.function, _said_plainly(settings.function, settings.params))
    assert settings.task is not None, "ProblemSettings has one source, and that of a stage is bound to its file"
    assert settings.size is not None, "ProblemSettings has a size with a task"
    return _numbered(settings.task, gym_rows(settings.task, settings.size, {"seed": seed, **settings.params}))


def _numbered(origin: str, rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"{origin}: row {number} expected a mapping of column names, got {type(row).__name__}")
        yield f"{origin}: row {number}", row


# --- files ------------------------------------------------------------------------------------------------------------


def _file_rows(path: Path) -> Iterator[Row]:
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a file that ends in {', '.join(readers)}: convert it to one of these")
    if not path.is_file():
        raise UserError(f"{path}: no such file: correct path in the recipe")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got {error.reason} at byte {error.start}: convert it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: line {number} expected a JSON object: {error}: correct the line") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} expected a JSON object, got {type(row).__name__}")
            yield f"{path}: line {number}", row


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows under the names of the first row; every value stays text, so that 007 is not 7."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            for values in reader:
                place = f"{path}: line {reader.line_num}"
                if values and len(values) != len(header):
                    raise UserError(f"{place} expected {len(header)} values, as in the header, got {len(values)}")
                if values:
                    yield place, dict(zip(header, values, strict=True))
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num} is not valid CSV: {error}: correct the line") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from _numbered(str(path), rows)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a valid Parquet file: {error}") from None


# --- hub and functions ------------------------------------------------------------------------------------------------


def _hub_rows(name: str, config: str | None, split: str) -> Iterable[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data set {name}, config {config or 'default'}, split {split}: {one_line(error)}: "
            "correct the name, or download the data and give it as path"
        ) from None
    return rows


def _said_plainly(reference: str, params: Mapping[str, Any]) -> Iterator[Any]:
    """The rows of a user's function; what it raises, at its call or later, is one sentence with its own line."""
    try:
        yield from _function_rows(reference, params)
    except UserError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {one_line(error)} at {last.filename}:{last.lineno}"
        raise UserError(f"{reference}: raised {said}: correct it") from error


def _function_rows(reference: str, params: Mapping[str, Any]) -> Iterable[Any]:
    function = load_object(reference)
    if not callable(function):
        raise UserError(f"{reference}: expected a function, got {type(function).__name__}")
    try:
        inspect.signature(function).bind(**params)
    except TypeError as error:
        raise UserError(f"{reference}: params do not fit {function.__name__}: {error}: correct params") from None
    rows = function(**params)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise UserError(f"{reference}: expected mappings, one a problem, got {type(rows).__name__}: yield each mapping")
    return rows
