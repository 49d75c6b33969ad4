"""The files of rejection sampling: every candidate with its reason, and those kept as data to learn from."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from grpo.chain import DATA
from grpo.files import atomic_file, full_disk_is_an_answer
from grpo.metrics import json_line
from grpo.sieve import KEPT, Candidate

CANDIDATES = "candidates.jsonl"


@dataclass(frozen=True)
class CandidateFiles:
    """Both files, open. `source` is what the kept rows say they come from."""

    source: str
    candidates: BinaryIO
    data: BinaryIO

    def write(self, candidates: Iterable[Candidate]) -> None:
        """Add candidates, and those that are kept to the data too. Raises DiskFull."""
        for candidate in candidates:
            self.candidates.write(json_line(_candidate_row(candidate)))
            if candidate.reason == KEPT:
                self.add([data_row(candidate.problem.prompt, candidate.text, candidate.problem.columns, self.source)])
        self.candidates.flush()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to the data. Raises DiskFull."""
        self.data.writelines(json_line(row) for row in rows)


@contextmanager
def open_files(folder: Path, writes: bool) -> Iterator[CandidateFiles]:
    """Begin both files anew; the data is there when the block has ended, and not before. One process writes."""
    if not writes:
        with Path(os.devnull).open("wb") as nowhere:
            yield CandidateFiles(folder.name, nowhere, nowhere)
        return
    every = folder / CANDIDATES
    with atomic_file(folder / DATA) as data, full_disk_is_an_answer(every), every.open("wb") as candidates:
        yield CandidateFiles(folder.name, candidates, data)
        candidates.flush()
        os.fsync(candidates.fileno())


def data_row(prompt: str, completion: str, columns: Mapping[str, Any], source: str) -> dict[str, Any]:
    """An example as fine-tuning reads it. A column of a kind that JSON has not becomes its text."""
    plain = json.loads(json.dumps(dict(columns), default=str))
    return {"prompt": prompt, **plain, "completion": completion, "source": source}


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    return {
        "candidate": candidate.name,
        "reason": candidate.reason,
        "detail": candidate.detail,
        "problem_id": candidate.problem.id,
        "prompt": candidate.problem.prompt,
        "completion": candidate.text,
        "tokens": len(candidate.completion.token_ids),
        "finish": candidate.completion.finish,
        "rewards": dict(candidate.score.parts),
        "status": dict(candidate.score.status),
        "notes": dict(candidate.score.notes),
    }
