"""What `grpo eval` may be asked to measure: files of benchmarks, known by their columns, and reasoning-gym's tasks."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.sources import first_row
from grpo.types import UserError

PROMPTS = ("prompt", "question", "problem", "Question", "Problem")
ANSWERS = ("answer", "Answer", "final_answer", "solution", "Solution")
"""Names of columns, the first that is there wins. GSM8K: question, answer (the text after ####). MATH-500: problem,
answer. MATH: problem, solution (its last box). AIME, as different people publish it: problem, Problem or question, and
answer, Answer, or a solution with a box."""

GYM_SIZE = 100
"""Problems of a reasoning-gym task when no limit is given; it can make any number."""
GYM_SEED = 1_000_000_000
"""Far from what training uses: the problems of a seed are one and the same with those of the next one, but for one."""


def sources_of(tasks: Sequence[str], limit: int | None) -> list[dict[str, Any]]:
    """The tasks of a command line as sources of problems; files of one name have their folder's before it in figures.

    Raises:
        UserError: the columns of a file are not those of a benchmark.
    """
    names = Counter(Path(task).name for task in tasks)
    return [
        source_of(task, limit) | ({"label": _with_folder(Path(task))} if names[Path(task).name] > 1 else {})
        for task in tasks
    ]


def _with_folder(file: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{file.resolve().parent.name}-{file.stem}")


def source_of(task: str, limit: int | None) -> dict[str, Any]:
    """A task of the command line as a source of problems: a file, file.py:function, or a reasoning-gym task.

    Raises:
        UserError: the columns of a file are not those of a benchmark.
    """
    size = {} if limit is None else {"size": limit}
    if Path(task).suffix in (".jsonl", ".parquet", ".csv"):
        return {"path": task, "columns": benchmark_columns(first_row(Path(task)), task), **size}
    if ":" in task:
        return {"function": task, **size}
    return {"task": task, "size": limit or GYM_SIZE, "params": {"seed": GYM_SEED}}


def benchmark_columns(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """Our names for the columns of a benchmark: `prompt`, and `answer` unless the rows bring reasoning-gym's scorer."""
    prompt = next((name for name in PROMPTS if name in row), None)
    answer = next((name for name in ANSWERS if row.get(name) not in (None, "")), None)
    if prompt is None or (answer is None and "reasoning_gym" not in row):
        raise UserError(
            f"{where}: expected a column of questions ({', '.join(PROMPTS)}) and one of answers "
            f"({', '.join(ANSWERS)}), got {', '.join(map(str, row)) or 'none'}: rename them"
        )
    return {"prompt": prompt} | ({"answer": answer} if answer else {})
