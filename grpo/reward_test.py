"""`grpo reward-test`: what a reward gives labelled cases, and what it gives attacks."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo.reward_settings import RewardSettings
from grpo.rewards import pool
from grpo.rewards.hostile import GOLD, attacks
from grpo.rewards.registry import Reward, check_columns, load_reward
from grpo.rewards.score import score
from grpo.types import Completion, Group, Problem, UserError

MAX_ATTACK_SECONDS = 5.0
"""A reward that takes longer on one completion holds up training."""

_OURS = frozenset({"completion", "expected", "prompt", "stratum"})


@dataclass(frozen=True)
class Judged:
    """What a reward gave one completion. `agrees` is None where nothing was expected."""

    line: int
    completion: str
    value: float | None
    status: str
    message: str
    note: str | None
    seconds: float
    expected: float | bool | None
    agrees: bool | None
    stratum: str | None


def reward_test(settings: RewardSettings, file: Path, prefill: str = "") -> list[Judged]:
    """Judge every case of a JSON-lines file by a reward, one by one.

    A line has `completion`, the columns that the reward reads, and `expected`: a number, true (more than a half) or
    false, or null for "does not apply".

    Raises:
        UserError: the reward or a line is not what it must be.
    """
    reward = load_reward(settings)
    cases = list(_cases(file))
    if not cases:
        raise UserError(f"{file}: expected cases, one JSON object a line, got none")
    pool.run_all(abs, [(1,)], 60.0)  # the workers start before the clock does
    return [_judged(reward, number, case, prefill) for number, case in cases]


def hostile_test(settings: RewardSettings, columns: Mapping[str, Any], prefill: str = "") -> tuple[list[Judged], bool]:
    """What a reward gives every attack, and whether any of their code was executed."""
    reward = load_reward(settings)
    given = {"answer": GOLD, **columns}
    check_columns(reward, given)
    pool.run_all(abs, [(1,)], 60.0)
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "executed"
        judged = [
            _judged(reward, number, {**given, "completion": attack.completion, "stratum": attack.name}, prefill)
            for number, attack in enumerate(attacks(str(mark)), 1)
        ]
        return judged, mark.exists()


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Agreement, kinds of mismatch, statuses and latency percentiles in seconds."""
    labelled = [one for one in judged if one.agrees is not None]
    wrong = [one for one in labelled if not one.agrees]
    seconds = sorted(one.seconds for one in judged)
    strata = {one.stratum: [o for o in labelled if o.stratum == one.stratum] for one in labelled if one.stratum}
    return {
        "cases": len(judged),
        "agree": len(labelled) - len(wrong),
        "agreement": (len(labelled) - len(wrong)) / len(labelled) if labelled else None,
        "false_positives": sum(one.expected is False and one.status == "ok" for one in wrong),
        "false_negatives": sum(one.expected is True and one.status == "ok" for one in wrong),
        "status": dict(Counter(one.status for one in judged)),
        "notes": dict(Counter(one.note for one in judged if one.note is not None)),
        "seconds": {
            name: _percentile(seconds, share)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        },
        "strata": {name: f"{sum(bool(o.agrees) for o in members)}/{len(members)}" for name, members in strata.items()},
        "mismatches": [asdict(one) for one in wrong],
    }


def as_text(figures: Mapping[str, Any]) -> str:
    """The summary for a person: every mismatch, then the figures."""
    lines = [
        f"line {one['line']}: expected {_shown(one['expected'])}, got {_got(one)}"
        f"{' by ' + one['note'] if one['note'] else ''}: {_short(one['completion'])}"
        for one in figures["mismatches"]
    ]
    if figures["strata"]:
        lines.append("by stratum: " + ", ".join(f"{name} {share}" for name, share in figures["strata"].items()))
    if figures["agreement"] is not None:
        lines.append(
            f"agreement {figures['agree']}/{figures['cases']} ({figures['agreement']:.2%}), "
            f"false positives {figures['false_positives']}, false negatives {figures['false_negatives']}"
        )
    lines.append("status: " + ", ".join(f"{name} {count}" for name, count in figures["status"].items()))
    latency = figures["seconds"]
    lines.append("latency: " + ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in latency.items()))
    return "\n".join(lines)


def hostile_text(judged: Sequence[Judged], executed: bool) -> str:
    """What every attack got, and what is wrong with that."""
    lines = [f"{_got(one):>14}  {1000 * one.seconds:9.1f} ms  {one.stratum}" for one in judged]
    slow = [one for one in judged if one.seconds > MAX_ATTACK_SECONDS]
    rewarded = [one for one in judged if one.value is not None and one.value > 0]
    lines.append(
        f"{len(judged)} attacks: {len(rewarded)} rewarded, {len(slow)} over {MAX_ATTACK_SECONDS:g} s, "
        f"slowest {max(one.seconds for one in judged):.2f} s, code executed: {'yes' if executed else 'no'}"
    )
    lines.append(
        "status: " + ", ".join(f"{name} {count}" for name, count in Counter(one.status for one in judged).items())
    )
    return "\n".join(lines)


def withstood(judged: Sequence[Judged], executed: bool) -> bool:
    """Whether no attack was executed, took too long, or was rewarded."""
    return not executed and all(one.seconds <= MAX_ATTACK_SECONDS and (one.value or 0) <= 0 for one in judged)


def _cases(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected a file of JSON lines, it cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _case(f"{file}: line {number}", line)


def _case(where: str, line: str) -> dict[str, Any]:
    try:
        case = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON object, got {line[:60]!r}: {error}") from None
    if not isinstance(case, dict) or not isinstance(case.get("completion"), str):
        raise UserError(f"{where}: expected an object with a text `completion`, got {line[:60]!r}: add it")
    if "expected" not in case or not (case["expected"] is None or isinstance(case["expected"], bool | int | float)):
        raise UserError(f"{where}: expected `expected` to be a number, true, false or null, got {line[:60]!r}: add it")
    return case


def _judged(reward: Reward, line: int, case: Mapping[str, Any], prefill: str) -> Judged:
    columns = {name: value for name, value in case.items() if name not in _OURS}
    if reward.needs:
        check_columns(reward, columns.keys())
    text = case["completion"]
    completion = Completion(text, tuple(range(len(text.split()))), (), "stop", 0)
    group = Group(Problem(str(line), str(case.get("prompt", "")), columns), (), (completion,))
    start = time.perf_counter()
    scoring = score([group], [reward], prefill)
    seconds = time.perf_counter() - start
    verdict = scoring.groups[0].scores[0]
    value, status = verdict.parts[reward.name], verdict.status[reward.name]
    agrees = _agrees(case["expected"], value, status) if "expected" in case else None
    message = scoring.failures[0].message if scoring.failures else ""
    note = verdict.notes.get(reward.name)
    return Judged(line, text, value, status, message, note, seconds, case.get("expected"), agrees, case.get("stratum"))


def _agrees(expected: float | bool | None, value: float | None, status: str) -> bool:
    if expected is None:
        return status == "not_applicable"
    if status != "ok" or value is None:
        return False
    return (value > 0.5) == expected if isinstance(expected, bool) else abs(value - expected) <= 1e-6


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _got(one: Any) -> str:
    given = one if isinstance(one, dict) else asdict(one)
    return f"{given['value']:g}" if given["value"] is not None else given["status"]


def _shown(expected: float | bool | None) -> str:
    return json.dumps(expected)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 160 else f"{flat[:60]} ... {flat[-95:]}")
