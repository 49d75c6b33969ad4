"""The completions of runs, group by group: all of them, or groups evenly spread where they are too many for a page."""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.lines import Place, Row, rows_at, walk
from grpo.report.run import Run

FILES = ("samples.jsonl", "candidates.jsonl")
MOST = 20_000
"""Completions of a report, unless told otherwise."""
MOST_BYTES = 16 * 2**20
"""Of the page that completions may take: with the rest it stays well under 30 MB."""
READ_AT_ONCE = 48 * 2**20
"""Bytes of logs that are packed at most: a browser unpacks them in about two seconds."""


@dataclass(frozen=True)
class GroupPlace:
    """Where the completions of a problem lie that belong together: one step's, or one model's."""

    run: int
    stage: str
    file: Path
    problem: str
    step: int | None
    places: list[Place]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(place.size for place in self.places)


@dataclass(frozen=True)
class Packed:
    """Completions as the page holds them: JSON, compressed, in base64; `count` of `total`, in whole groups."""

    text: str
    count: int
    total: int


def pack_samples(runs: Sequence[Run], most: int = MOST, most_bytes: int = MOST_BYTES) -> Packed:
    """As many groups as fit, evenly spread over the runs from beginning to end."""
    index = [group for number, run in enumerate(runs) for group in _index(number, run)]
    total = sum(len(group.places) for group in index)
    share = min(1.0, most / max(total, 1), READ_AT_ONCE / max(sum(group.size for group in index), 1))
    while True:
        chosen = spread(index, share)
        text = base64.b64encode(gzip.compress(_json(_content(chosen)), 6, mtime=0)).decode()
        if len(text) <= most_bytes or len(chosen) <= 1:
            return Packed(text, sum(len(group.places) for group in chosen), total)
        share *= 0.9 * most_bytes / len(text)


def spread(groups: Sequence[GroupPlace], share: float) -> list[GroupPlace]:
    """A share of the groups, at even distances; at least one, of a share above 0."""
    taken = [group for place, group in enumerate(groups) if int((place + 1) * share) > int(place * share)]
    return taken or list(groups[-1:] if share > 0 else ())


def _index(number: int, run: Run) -> list[GroupPlace]:
    """The groups of a run in the order in which they begin."""
    found: dict[tuple[Any, ...], GroupPlace] = {}
    seen: Counter[tuple[Any, ...]] = Counter()
    for stage in run.stages:
        together = stage.settings.get("completions_per_prompt")
        for file in (stage.folder / name for name in FILES):
            for place, row in walk(file):
                if row is None or not isinstance(row.get("completion"), str):
                    continue
                step, problem = row.get("step"), str(row.get("problem_id", ""))
                key = (stage.name, file.name, step, row.get("model"), row.get("template"), problem)
                nth = seen[key] // together if isinstance(together, int) else 0  # a step may ask a problem twice
                seen[key] += 1
                group = found.setdefault((*key, nth), GroupPlace(number, stage.name, file, problem, step, []))
                group.places.append(place)
    return list(found.values())


def _content(groups: Sequence[GroupPlace]) -> dict[str, Any]:
    """What the page reads: prompts once, and groups with their completions."""
    prompts: dict[str, int] = {}
    return {"groups": [_group(group, prompts) for group in groups], "prompts": list(prompts)}


def _group(group: GroupPlace, prompts: dict[str, int]) -> dict[str, Any]:
    rows = list(rows_at(group.file, group.places))
    first: Row = rows[0] if rows else {}
    prompt = prompts.setdefault(str(first.get("prompt", "")), len(prompts))
    named = {name: first[name] for name in ("model", "template", "source") if first.get(name)}
    return {
        "run": group.run,
        "stage": group.stage,
        "step": group.step,
        "problem": group.problem,
        "prompt": prompt,
        **named,
        "samples": [_sample(row) for row in rows],
    }


KEPT = (
    "completion", "tokens", "rewards", "total", "advantage", "finish", "weight_version", "mask_reason", "greedy",
    "right", "found", "reason", "detail", "token_logprobs", "token_lengths",
)  # fmt: skip


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a completion, without what says nothing."""
    kept = {name: row[name] for name in KEPT if row.get(name) is not None}
    failed = {name: status for name, status in (row.get("status") or {}).items() if status != "ok"}
    notes = row.get("notes") or {}
    return kept | ({"status": failed} if failed else {}) | ({"notes": notes} if notes else {})


def _json(value: Any) -> bytes:
    # Half a surrogate pair, which UTF-8 has no code for, becomes its JSON escape.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
