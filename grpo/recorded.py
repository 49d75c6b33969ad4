"""Completions as an evaluation's figures see them, the same from the engine and from a samples.jsonl."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from grpo.evaluation import RIGHT, cons_at_k, is_right, mean_interval, normal_interval, pass_at_k, wilson_interval
from grpo.rewards.accuracy import accuracy as judge_accuracy
from grpo.rewards.answers.compare import EXACT, Tolerance
from grpo.rewards.voting import RIGHT_VOTE, found_answer, votes
from grpo.rollout.collect import speculation_figures
from grpo.types import Drafts, ScoredGroup, UserError

Figures = dict[str, float]

INTERVALS = "95 %: Wilson's for greedy accuracy, normal over problems (each the mean of its samples) for the others"
"""What `_low` and `_high` are."""


@dataclass(frozen=True)
class Recorded:
    """One completion: what was asked of which model, whether it was the likeliest one, and what came of it.

    `applies` says whether the accuracy reward has anything to say on the problem; where it failed, the answer is not
    right. `found` is the final answer, None where there is none.
    """

    model: str
    template: str
    source: str
    problem: str
    greedy: bool
    applies: bool
    right: bool
    rewards: Mapping[str, float | None]
    scorable: bool
    tokens: int
    cut: bool
    found: str | None
    drafts: Drafts | None = None


def recorded(group: ScoredGroup, copy: int, accuracy: str) -> Recorded:
    """A completion of a scored group, for figures that need no more than the scores."""
    score, completion, problem = group.scores[copy], group.group.completions[copy], group.group.problem
    return Recorded(
        model="",
        template="",
        source=problem.source,
        problem=problem.id,
        greedy=True,
        applies=score.status.get(accuracy) != "not_applicable",
        right=is_right(score, accuracy),
        rewards=score.parts,
        scorable=score.total is not None,
        tokens=len(completion.token_ids),
        cut=completion.finish == "length",
        found=None,
        drafts=completion.drafts,
    )


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Which figures of samples: pass@k and cons@k for these k, and when two answers are the same."""

    k: Sequence[int]
    cons: Sequence[int]
    tolerance: Tolerance = EXACT


def figures_of(answers: Sequence[Recorded], wanted: Wanted) -> Figures:
    """Everything that is measured of one model and template; of each source of a mixture, as `source/<name>/...`."""
    figures = _figures(answers, wanted)
    for source in sorted({answer.source for answer in answers} - {""}):
        own = _figures([answer for answer in answers if answer.source == source], wanted)
        figures |= {f"source/{source}/{name}": value for name, value in own.items()}
    return figures


def _figures(answers: Sequence[Recorded], wanted: Wanted) -> Figures:
    greedy = [answer for answer in answers if answer.greedy]
    sampled = [answer for answer in answers if not answer.greedy]
    shown = greedy or sampled
    return greedy_accuracy(greedy) | sampled_figures(sampled, wanted) | answer_figures(shown) | spreads(shown)


def greedy_accuracy(answers: Sequence[Recorded]) -> Figures:
    """The share of right answers, one a problem, with its 95 % Wilson interval; nothing where none is judged."""
    answers = [answer for answer in answers if answer.applies]
    if not answers:
        return {}
    right = sum(answer.right for answer in answers)
    low, high = wilson_interval(right, len(answers))
    return {"accuracy": right / len(answers), "accuracy_low": low, "accuracy_high": high}


def answer_figures(answers: Sequence[Recorded]) -> Figures:
    """The mean of every reward where it applies, lengths, the share cut, and counts."""
    figures: Figures = {}
    for name in dict.fromkeys(name for answer in answers for name in answer.rewards):
        values = [value for answer in answers if (value := answer.rewards.get(name)) is not None]
        figures |= {f"reward/{name}": fmean(values)} if values else {}
    figures["completion/length_mean"] = fmean(answer.tokens for answer in answers)
    figures["completion/truncated"] = fmean(answer.cut for answer in answers)
    figures["unscorable"] = float(sum(not answer.scorable for answer in answers))
    figures["problems"] = float(len({answer.problem for answer in answers}))
    return figures | speculation_figures([(answer.tokens, answer.drafts) for answer in answers])


def spreads(answers: Sequence[Recorded]) -> Figures:
    """How far apart each reward's values are: `std` of completions, and the mean's 95 % interval over problems.

    `low` and `high` are normal, of problems' means. Rewards may be on any scale, so equal values have no width.
    """
    figures: Figures = {}
    for name in dict.fromkeys(name for answer in answers for name in answer.rewards):
        by_problem: dict[str, list[float]] = defaultdict(list)
        for answer in answers:
            if (value := answer.rewards.get(name)) is not None:
                by_problem[answer.problem].append(value)
        if by_problem:
            low, high = normal_interval([fmean(own) for own in by_problem.values()])
            std = pstdev([value for own in by_problem.values() for value in own])
            figures |= {f"spread/{name}/std": std, f"spread/{name}/low": low, f"spread/{name}/high": high}
    return figures


def sampled_figures(answers: Sequence[Recorded], wanted: Wanted) -> Figures:
    """pass@k and cons@k, means over problems to which accuracy applies, with their intervals over problems."""
    by_problem: dict[str, list[Recorded]] = defaultdict(list)
    for answer in answers:
        if answer.applies:
            by_problem[answer.problem].append(answer)
    if not by_problem:
        return {}
    values = {
        f"pass@{k}": [pass_at_k(len(own), sum(one.right for one in own), k) for own in by_problem.values()]
        for k in wanted.k
    }
    if wanted.cons:
        ballots = [_ballot(own, wanted.tolerance) for own in by_problem.values()]
        values |= {f"cons@{k}": [cons_at_k(ballot, {RIGHT_VOTE}, k) for ballot in ballots] for k in wanted.cons}
    figures: Figures = {}
    for name, each in values.items():
        low, high = mean_interval(each)
        figures |= {name: fmean(each), f"{name}_low": low, f"{name}_high": high}
    return figures


def _ballot(answers: Sequence[Recorded], tolerance: Tolerance) -> list[int | None]:
    return votes([answer.found for answer in answers], [answer.right for answer in answers], tolerance)


# --- rows of samples.jsonl --------------------------------------------------------------------------------------------


def read_recorded(path: Path, accuracy: str = "accuracy") -> list[Recorded]:
    """The completions in a samples.jsonl, of an evaluation or of training, or of another program.

    A row needs `problem_id` or `prompt`, and `rewards` or, to be judged now, `completion` and the gold `answer`.

    Raises:
        UserError: the file is missing, or a row is not JSON or has too little in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}: give a samples.jsonl") from None
    rows = [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: expected at least one completion, got none: give a samples.jsonl")
    judged = _judged(rows, accuracy, path)
    named = dict.fromkeys(name for row in judged for name in row["rewards"])
    if accuracy not in named:
        raise UserError(
            f"{path}: expected a reward {accuracy!r}, which says what is right, got {', '.join(named) or 'none'}: name "
            "the one that does with --accuracy"
        )
    return [from_row(row, accuracy) for row in judged]


def from_row(row: Mapping[str, Any], accuracy: str) -> Recorded:
    """A completion from its row."""
    rewards, status = row["rewards"], (row.get("status") or {}).get(accuracy)
    value = rewards.get(accuracy)
    says_nothing = status is None and accuracy in rewards and value is None  # another program's file: it does not apply
    return Recorded(
        model=str(row.get("model", "")),
        template=str(row.get("template", "")),
        source=str(row.get("source", "")),
        problem=str(row.get("problem_id", row.get("prompt"))),
        greedy=bool(row.get("greedy", False)),
        applies=status != "not_applicable" and not says_nothing,
        right=value is not None and value >= RIGHT,
        rewards=rewards,
        scorable=row.get("total", 0.0) is not None,
        tokens=int(row.get("tokens") or 0),
        cut=row.get("finish") == "length",
        found=row["found"] if "found" in row else found_answer(str(row.get("completion", "")), has_scorer=False),
        drafts=Drafts(*row["drafts"]) if row.get("drafts") else None,
    )


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} expected a JSON object: {error}: correct the line") from None
    if not isinstance(row, dict) or not {"problem_id", "prompt"} & row.keys():
        raise UserError(f"{place} expected an object with problem_id or prompt: correct the line")
    if not isinstance(row.get("rewards"), dict) and not {"completion", "answer"} <= row.keys():
        raise UserError(f"{place} expected rewards, or completion and answer to judge it by: correct the line")
    for name, value in [("tokens", row.get("tokens")), *(row.get("rewards") or {}).items()]:
        if not isinstance(value, int | float | None):
            raise UserError(f"{place} {name}: expected a number, got {str(value)[:40]!r}: correct the line")
    if not isinstance(row.get("status"), dict | None):
        raise UserError(f"{place} status: expected an object, got {str(row['status'])[:40]!r}: correct the line")
    return row


def _judged(rows: Sequence[dict[str, Any]], accuracy: str, path: Path) -> list[dict[str, Any]]:
    """Rows without rewards get them from the accuracy reward; a completion on which it fails is counted as that."""
    missing = [row for row in rows if not isinstance(row.get("rewards"), dict)]
    verdicts = judge_accuracy([str(row["completion"]) for row in missing], answer=[row["answer"] for row in missing])
    unreadable = next((verdict for verdict in verdicts if isinstance(verdict, ValueError)), None)
    if unreadable is not None:
        raise UserError(f"{path}: a completion could not be judged: {unreadable}: correct its answer")
    judged = iter(verdicts)
    return [row if isinstance(row.get("rewards"), dict) else row | _verdict(next(judged), accuracy) for row in rows]


def _verdict(verdict: float | Exception, accuracy: str) -> dict[str, Any]:
    """What a row has of a reward: the number, or that it took too long or failed."""
    if isinstance(verdict, Exception):
        status = "timeout" if isinstance(verdict, TimeoutError) else "error"
        return {"rewards": {accuracy: None}, "status": {accuracy: status}, "total": None}
    return {"rewards": {accuracy: verdict}}
