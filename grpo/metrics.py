"""What a run writes down: figures of every step, every completion, the time of every phase."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from torch import Tensor

from grpo.files import full_disk_is_an_answer, sync
from grpo.masked import masked
from grpo.token_lengths import token_lengths
from grpo.types import Completion, Problem, Score, ScoredGroup, UserError

LOGS = ("metrics", "samples", "experts")
"""The names of a stage's logs, each a .jsonl file; the last is there where the policy has experts."""

PHASES = ("rollout", "reward", "learn", "sync", "evaluate")
"""What a step spends its time on. Any other `time/...` is a part of one of these."""

Position = Mapping[str, int]
"""How many bytes of each log there are."""

Track = Callable[[Mapping[str, float], int], None]
"""Sends the figures of a step to the trackers."""


class RunLog:
    """The log of one stage: `metrics.jsonl`, `samples.jsonl`, `experts.jsonl` and the trackers.

    Only the main process has paths to write to; the others' logs do nothing.
    """

    def __init__(self, stage: str, paths: Mapping[str, Path], track: Track):
        self.stage = stage
        self.paths = paths
        self.track = track

    @classmethod
    def open(cls, folder: Path, stage: str, accelerator: Accelerator, position: Position | None) -> "RunLog":
        """Go on with the logs of a stage's folder after `position`, or begin them.

        Raises:
            UserError: a log is shorter than `position` says.
        """
        paths = {name: folder / f"{name}.jsonl" for name in LOGS} if accelerator.is_main_process else {}
        for name, path in paths.items():
            _cut(path, position.get(name, 0) if position else 0)
        return cls(stage, paths, _tracking(folder, accelerator))

    def write(
        self,
        step: int,
        figures: Mapping[str, float],
        samples: Sequence[Mapping[str, Any]],
        load_LE: Tensor | None = None,
        **labels: str,
    ) -> None:
        """Add the figures of a step, with labels such as the model they describe, and its samples. Raises DiskFull.

        `load_LE` are the tokens that each of E experts of L routers got, which would make too long a line of figures.
        """
        metrics = {"step": step, "stage": self.stage, "time": time.time(), **labels, **figures}
        rows: dict[str, Iterable[Mapping[str, Any]]] = {"metrics": [metrics], "samples": samples}
        if load_LE is not None:
            rows["experts"] = [{"step": step, "load": load_LE.long().tolist()}]
        for name, path in self.paths.items():
            if name in rows:
                with full_disk_is_an_answer(path), path.open("ab") as file:
                    file.write(b"".join(map(json_line, rows[name])))
        self.track({f"{self.stage}/{name}": value for name, value in figures.items()}, step)

    def position(self) -> Position:
        """Wait until all that was written is on disk, and say how much that is."""
        self.close()
        return {name: path.stat().st_size if path.exists() else 0 for name, path in self.paths.items()}

    def close(self) -> None:
        """Wait until all that was written is on disk. Raises DiskFull."""
        for path in filter(Path.exists, self.paths.values()):
            with full_disk_is_an_answer(path):
                sync(path)


def json_line(row: Mapping[str, Any]) -> bytes:
    """Write a row as one line of UTF-8 JSON. A number that is not finite becomes null, which JSON has no number for."""
    text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair, which UTF-8 has no code for, becomes its JSON escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def sample_rows(
    step: int,
    scored: Sequence[ScoredGroup],
    advantages_PG: Tensor,
    mask_reasons_PG: Sequence[Sequence[str | None]],
    render: Callable[[Sequence[int]], str],
    with_tokens: int = 0,
) -> list[dict[str, Any]]:
    """Describe every completion of a step, one row each, P prompts by G completions.

    `render` reads token ids as text. The first `with_tokens` groups tell the log-probability of every token.
    """
    rows = []
    step_rows = zip(scored, advantages_PG.tolist(), mask_reasons_PG, strict=True)
    for place, (scored_group, advantages_G, mask_reasons_G) in enumerate(step_rows):
        group = scored_group.group
        prompt = render(group.prompt_ids)
        for completion, score, advantage, mask_reason in zip(
            group.completions, scored_group.scores, advantages_G, mask_reasons_G, strict=True
        ):
            row = {"step": step, **completion_row(group.problem, prompt, completion, score)}
            row |= {"advantage": advantage, "weight_version": completion.weight_version, "mask_reason": mask_reason}
            rows.append(row | (token_columns(completion, render) if place < with_tokens else {}))
    return rows


def token_columns(completion: Completion, render: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    """The sampler's log-probability of every token and how many characters of the text each token is."""
    lengths = token_lengths(completion.token_ids, completion.text, render)
    return {"token_logprobs": [round(value, 3) for value in completion.sampler_logprobs], "token_lengths": lengths}


def completion_row(problem: Problem, prompt: str, completion: Completion, score: Score) -> dict[str, Any]:
    """What became of one completion; `prompt` is its prompt as text. A lone source of problems is not named."""
    return {
        "problem_id": problem.id,
        **({"source": problem.source} if problem.source else {}),
        "prompt": prompt,
        "completion": completion.text,
        "tokens": len(completion.token_ids),
        "rewards": dict(score.parts),
        "status": dict(score.status),
        "notes": dict(score.notes),
        "total": score.total,
        "finish": completion.finish,
    }


class Clock:
    """Adds up the seconds of a step's phases: `with clock("rollout"): ...`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of the block towards a phase, also when the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[phase] = self.seconds(phase) + seconds

    def seconds(self, phase: str) -> float:
        """Return the seconds of a phase so far, 0 where it has not been."""
        return self._seconds.get(phase, 0.0)

    def figures(self) -> dict[str, float]:
        """Return the seconds of every phase as `time/<phase>`."""
        return {f"time/{phase}": seconds for phase, seconds in self._seconds.items()}


def peak_memory_mb() -> float:
    """Return the most memory this process has held so far, in MiB: the CUDA device's where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def require_trackers(wanted: Sequence[str]) -> None:
    """Raise UserError when a tracker is not installed, which accelerate itself would pass over with a warning."""
    absent = sorted(set(wanted) - {str(tracker) for tracker in get_available_trackers()})
    if absent:
        raise UserError(
            f"trackers: {absent[0]} is not installed: pip install 'grpo-train[{absent[0]}]', or leave it out"
        )


def start_trackers(accelerator: Accelerator, run_name: str, wanted: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Start the trackers that the accelerator was made with and tell them the settings."""
    if wanted:
        accelerator.init_trackers(run_name, config=dict(_flat(masked(settings))))


def _cut(path: Path, size: int) -> None:
    """Make a log exactly `size` bytes long by dropping what came after a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    present = path.stat().st_size if path.exists() else 0
    if present < size:
        raise UserError(
            f"{path}: expected at least the {size} bytes that the checkpoint counted, got {present}: bring the file "
            "back, or start over with --fresh"
        )
    if present:
        os.truncate(path, size)


def _tracking(folder: Path, accelerator: Accelerator) -> Track:
    """Return what sends figures to the trackers; steps go on from stage to stage, as wandb wants them to."""
    if not accelerator.trackers:
        return lambda figures, step: None
    earlier = [path for path in folder.parent.glob("*/metrics.jsonl") if path.parent.name < folder.name]
    before = sum(path.read_bytes().count(b"\n") for path in earlier)
    return lambda figures, step: accelerator.log(dict(figures), step=before + step)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `stages.0.lr` and its value for every leaf of nested settings, as the trackers want them."""
    if isinstance(value, Mapping | list):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, bool | int | float | str) else str(value)
