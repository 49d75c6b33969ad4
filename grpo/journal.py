"""Rollouts that are not yet learned from, so that a crash after sampling does not cost the samples."""

import base64
import gzip
import json
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grpo.feed import FeedChange
from grpo.files import write_atomic
from grpo.types import Completion, Drafts, Group, Problem, Routes, Score, ScoredGroup, UserError

FAST = 1
"""The compression level: most of the gain, little of the time."""


@dataclass(frozen=True)
class Rollout:
    """The scored groups of a step, and the figures that were measured while they were sampled.

    `consumed` problems were drawn for it, those of groups that were not kept included; `changes` are what its rounds do
    to the stage's feed, in order.
    """

    step: int
    consumed: int
    scored: Sequence[ScoredGroup]
    figures: Mapping[str, float]
    changes: tuple[FeedChange, ...] = ()


def write_rollout(folder: Path, rollout: Rollout) -> None:
    """Write a rollout to `folder`, complete or not at all. Of a problem only the id is kept. Raises DiskFull."""
    changes = [asdict(change) for change in rollout.changes]
    header = {"consumed": rollout.consumed, "figures": dict(rollout.figures), "changes": changes}
    lines = [json.dumps(entry) for entry in [header, *map(_group_entry, rollout.scored)]]
    # Without a time in its header, gzip gives equal rollouts equal files.
    write_atomic(_path(folder, rollout.step), gzip.compress("\n".join(lines).encode(), FAST, mtime=0))


def read_rollout(folder: Path, step: int, problems: Mapping[str, Problem]) -> Rollout | None:
    """Return the rollout of a step exactly as it was written, or None where there is none that is whole.

    Raises:
        UserError: it names a problem that is not in `problems` (by id).
    """
    path = _path(folder, step)
    try:
        header, *entries = map(json.loads, gzip.decompress(path.read_bytes()).decode().split("\n"))
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error, json.JSONDecodeError):
        return None
    for entry in entries:
        if entry["problem"] not in problems:
            raise UserError(
                f"{path}: expected problems of this run's data, got {entry['problem']!r}, which is no longer there: "
                "bring the data back, or start over with --fresh"
            )
    scored = [_scored_group(entry, problems) for entry in entries]
    changes = tuple(map(_change, header["changes"] if "changes" in header else [header["change"]]))
    return Rollout(step, header["consumed"], scored, header["figures"], changes)


def prune_rollouts(folder: Path, up_to_step: int) -> None:
    """Delete the rollouts of every step up to and with `up_to_step`."""
    for path in folder.glob("step-*.jsonl.gz"):
        if _step(path) <= up_to_step:
            path.unlink()


def keep_rollouts(folder: Path, steps: Container[int]) -> None:
    """Delete the rollouts of all other steps.

    Behind a gap lie those of a run whose checkpoint was damaged: sampled from weights that this run may not come to.
    """
    for path in folder.glob("step-*.jsonl.gz"):
        if _step(path) not in steps:
            path.unlink()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-").removesuffix(".jsonl.gz"))


def _change(entry: Mapping[str, Any]) -> FeedChange:
    visits = tuple((problem, rate) for problem, rate in entry["visits"])
    return FeedChange(entry["places"], tuple(entry["passed"]), visits)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.jsonl.gz"


def _group_entry(scored: ScoredGroup) -> dict[str, Any]:
    group = scored.group
    return {
        "problem": group.problem.id,
        "prompt_ids": group.prompt_ids,
        "completions": [_completion_entry(completion) for completion in group.completions],
        "scores": [asdict(score) for score in scored.scores],
    }


def _completion_entry(completion: Completion) -> dict[str, Any]:
    entry = asdict(replace(completion, routes=None))
    if completion.routes is not None:
        entry["routes"] = asdict(completion.routes) | {"data": base64.b64encode(completion.routes.data).decode()}
    return entry


def _routes(entry: Mapping[str, Any] | None) -> Routes | None:
    if entry is None:
        return None
    return Routes(entry["routers"], entry["experts"], base64.b64decode(entry["data"]))


def _scored_group(entry: Mapping[str, Any], problems: Mapping[str, Problem]) -> ScoredGroup:
    completions = tuple(
        Completion(
            text=completion["text"],
            token_ids=tuple(completion["token_ids"]),
            sampler_logprobs=tuple(completion["sampler_logprobs"]),
            finish=completion["finish"],
            weight_version=completion["weight_version"],
            routes=_routes(completion.get("routes")),
            drafts=None if completion.get("drafts") is None else Drafts(*completion["drafts"]),
        )
        for completion in entry["completions"]
    )
    group = Group(problems[entry["problem"]], tuple(entry["prompt_ids"]), completions)
    return ScoredGroup(group, tuple(Score(**score) for score in entry["scores"]))
