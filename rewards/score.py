"""Scores groups of completions. Whatever a reward does, every completion gets a verdict with a status."""

import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from grpo.rewards.pool import WorkerError
from grpo.rewards.registry import Reward
from grpo.rewards.verdict import Noted
from grpo.types import Completion, Group, Problem, Score, ScoredGroup, Status, one_line


@dataclass(frozen=True)
class RewardFailure:
    """A completion on which a reward failed: for the log, and for the person who mends the reward."""

    reward: str
    problem_id: str
    status: Status
    message: str
    completion: str


class Scoring(NamedTuple):
    """Scored groups, the failures behind every status error and timeout in them, and what each reward took."""

    groups: list[ScoredGroup]
    failures: list[RewardFailure]
    seconds: Mapping[str, float] = {}


@dataclass(frozen=True)
class _Sample:
    """A completion as rewards see it: `text` begins with what the template prefilled."""

    problem: Problem
    completion: Completion
    text: str


@dataclass(frozen=True)
class _Verdict:
    value: float | None
    status: Status
    message: str = ""
    note: str | None = None


def score(
    groups: Sequence[Group], rewards: Sequence[Reward], prefill: str = "", conversational: bool = False
) -> Scoring:
    """Judge every completion of `groups` by every reward.

    A reward gets the parameters it names, of the problems that its `where` matches: the problem's columns, `prompt`,
    `completion` (prefill + text), `completion_tokens`, `finish`; a batched one gets lists, `prompts`, `completions` and
    `completion_ids`. As in TRL, `conversational` (the run's template is a chat) makes prompts and completions of
    batched rewards chat messages; TRL's own functions always get messages. A batched reward may return an exception in
    place of one number.

    `Score.total` is the weighted sum of the rewards that apply, each clipped to its bounds, and 0 where the reward
    that it is gated by applies and is not reached. It is None when a reward with a weight other than 0 failed, or the
    gate of one, or when none applies. Rewards with weight 0 are shown and never counted.
    """
    samples = [_Sample(g.problem, c, prefill + c.text) for g in groups for c in g.completions]
    columns, seconds = [], {}
    for reward in rewards:
        start = time.perf_counter()
        columns.append(_verdicts(reward, samples, conversational))
        seconds[reward.name] = time.perf_counter() - start
    rows = list(zip(*columns, strict=True)) if columns else [() for _ in samples]
    scores = iter([_total(rewards, row) for row in rows])
    scored = [ScoredGroup(group, tuple(next(scores) for _ in group.completions)) for group in groups]
    failures = [
        RewardFailure(reward.name, sample.problem.id, verdict.status, verdict.message, sample.text)
        for sample, row in zip(samples, rows, strict=True)
        for reward, verdict in zip(rewards, row, strict=True)
        if verdict.status in ("error", "timeout")
    ]
    return Scoring(scored, failures, seconds)


def reward_figures(groups: Iterable[ScoredGroup]) -> dict[str, float]:
    """The step's figures. A mean or std (of the population) of nothing is left out.

    `reward/mean` and `reward/std` are of the totals, `reward/<name>` is the mean where that reward applied, and
    `reward/<name>/<status>` counts the completions where it did not.
    """
    scores = [one for group in groups for one in group.scores]
    totals = [one.total for one in scores if one.total is not None]
    figures = {"reward/mean": statistics.fmean(totals), "reward/std": statistics.pstdev(totals)} if totals else {}
    for name in scores[0].parts if scores else ():
        parts = [part for one in scores if (part := one.parts[name]) is not None]
        figures |= {f"reward/{name}": statistics.fmean(parts)} if parts else {}
        for status in ("not_applicable", "error", "timeout"):
            figures[f"reward/{name}/{status}"] = float(sum(one.status[name] == status for one in scores))
    return figures


def _total(rewards: Sequence[Reward], row: Sequence[_Verdict]) -> Score:
    verdicts = {reward.name: verdict for reward, verdict in zip(rewards, row, strict=True)}
    needed = {name for reward in rewards if reward.weight for name in (reward.name, *reward.gate[:1])}
    failed = any(verdicts[name].status in ("error", "timeout") for name in needed)
    counted = {reward.name: _counted(reward, verdicts) for reward in rewards}
    sums = [r.weight * value for r in rewards if r.weight and (value := counted[r.name]) is not None]
    shaped = any(reward.clip or reward.gate for reward in rewards)
    return Score(
        total=None if failed or not sums else math.fsum(sums),
        parts={name: verdict.value for name, verdict in verdicts.items()},
        status={name: verdict.status for name, verdict in verdicts.items()},
        notes={name: verdict.note for name, verdict in verdicts.items() if verdict.note is not None},
        counted=counted if shaped else {},
    )


def _counted(reward: Reward, verdicts: Mapping[str, _Verdict]) -> float | None:
    """What a reward counts as. A gate that does not apply is open."""
    value = verdicts[reward.name].value
    if value is None:
        return None
    if reward.gate:
        name, at_least = reward.gate
        reached = verdicts[name].value
        if reached is not None and reached < at_least:
            return 0.0
    return min(max(value, reward.clip[0]), reward.clip[1]) if reward.clip else value


def _verdicts(reward: Reward, samples: Sequence[_Sample], conversational: bool) -> list[_Verdict]:
    """One verdict a sample; a reward does not see those of problems that it is not for."""
    judged = iter(_judged([s for s in samples if reward.is_for(s.problem)], reward, conversational))
    return [next(judged) if reward.is_for(s.problem) else _Verdict(None, "not_applicable") for s in samples]


def _judged(samples: Sequence[_Sample], reward: Reward, conversational: bool) -> list[_Verdict]:
    if not reward.batched:
        calls = [_single(reward, sample) for sample in samples]
        if reward.many is not None:
            return [_verdict(value) for value in _guarded_many(reward.many, calls)]
        return [_guarded(reward, call, 1)[0] for call in calls]
    chat = reward.messages == "always" or (reward.messages == "as_run" and conversational)
    return _guarded(reward, _batch(reward, samples, chat), len(samples)) if samples else []


def _guarded(reward: Reward, arguments: dict[str, Any], count: int) -> list[_Verdict]:
    """The one boundary behind which a reward may do what it likes."""
    try:
        returned = reward.call(**arguments)
        if isinstance(returned, Exception):
            return [_failure(returned)] * count
        values = list(returned) if reward.batched else [returned]
    except Exception as error:
        return [_failure(error)] * count
    if len(values) != count:
        return [_Verdict(None, "error", f"returned {len(values)} rewards for {count} completions")] * count
    return [_verdict(value) for value in values]


def _guarded_many(many: Callable[[Sequence[dict[str, Any]]], Sequence[Any]], calls: Sequence[dict[str, Any]]) -> Any:
    try:
        return many(calls) if calls else []
    except Exception as error:
        return [error] * len(calls)


def _verdict(value: Any) -> _Verdict:
    if value is None:
        return _Verdict(None, "not_applicable")
    if isinstance(value, Exception):
        return _failure(value)
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:
        number = math.nan
    if not math.isfinite(number):
        return _Verdict(None, "error", f"expected a finite number or None, got {repr(value)[:100]}")
    return _Verdict(number, "ok", note=value.note if isinstance(value, Noted) else None)


def _failure(error: Exception) -> _Verdict:
    """The status and the sentence of an exception, with the line of the reward's file it passed through."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    where = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    status: Status = "timeout" if isinstance(error, TimeoutError) else "error"
    kind = "" if isinstance(error, WorkerError) else f"{type(error).__name__}: "
    return _Verdict(None, status, f"{kind}{one_line(error)}{where}")


def _accepted(reward: Reward, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if name not in reward.options and (reward.accepts is None or name in reward.accepts)
    }


def _single(reward: Reward, sample: _Sample) -> dict[str, Any]:
    own = {
        "prompt": sample.problem.prompt,
        "completion": sample.text,
        "completion_tokens": len(sample.completion.token_ids),
        "finish": sample.completion.finish,
    }
    return _accepted(reward, {**sample.problem.columns, **own})


def _batch(reward: Reward, samples: Sequence[_Sample], chat: bool) -> dict[str, Any]:
    """Lists, in TRL's convention. A problem without a column that another has gets None there."""
    names = dict.fromkeys(name for sample in samples for name in sample.problem.columns)
    columns = {name: [sample.problem.columns.get(name) for sample in samples] for name in names}
    prompts, texts = [s.problem.prompt for s in samples], [s.text for s in samples]
    own = {
        "prompts": [_message("user", prompt) for prompt in prompts] if chat else prompts,
        "completions": [_message("assistant", text) for text in texts] if chat else texts,
        "completion_ids": [list(s.completion.token_ids) for s in samples],
        "completion_tokens": [len(s.completion.token_ids) for s in samples],
        "finish": [s.completion.finish for s in samples],
    }
    return _accepted(reward, {**columns, **own})


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]
