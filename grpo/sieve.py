"""Rejection sampling's judgement: every candidate gets one reason, `kept` or why it is not."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from grpo.decontamination import EvaluationIndex, overlap
from grpo.duplicates import KeptTexts, Text
from grpo.reading import hard_to_read, parts, written
from grpo.rejection_stage import RejectionStage
from grpo.rewards.language import chain_of_thought
from grpo.types import Completion, Problem, Score, ScoredGroup

KEPT = "kept"


@dataclass(frozen=True)
class Candidate:
    """A sample, as it would be written down, with its reason; `detail` says what it overlaps or repeats."""

    name: str
    problem: Problem
    completion: Completion
    score: Score
    text: str
    reason: str
    detail: str | None


@dataclass
class Sieve:
    """The filters of a stage, and what they remember: what is kept, and how often each reason was given.

    `prefills` holds what the prompt already says of a completion, by the source of the problem. The same candidates in
    the same order get the same reasons.
    """

    stage: RejectionStage
    prefills: Mapping[str, str]
    evaluations: EvaluationIndex | None
    kept: KeptTexts | None
    counts: Counter[str] = field(default_factory=Counter)

    def sift(self, groups: Sequence[ScoredGroup]) -> Iterator[Candidate]:
        """The candidates of these groups with their reasons. A problem is in one group only."""
        for scored in groups:
            of_problem = 0
            for number, (completion, score) in enumerate(zip(scored.group.completions, scored.scores, strict=True)):
                candidate = self._judged(scored.group.problem, number, completion, score, of_problem)
                of_problem += candidate.reason == KEPT
                self.counts[candidate.reason] += 1
                yield candidate

    def figures(self) -> dict[str, float]:
        """The candidates so far and, by reason, how many they are; these add up to them."""
        named = dict.fromkeys(reasons(self.stage), 0) | self.counts
        return {"candidates": float(self.counts.total())} | {f"reasons/{name}": float(n) for name, n in named.items()}

    def _judged(
        self, problem: Problem, number: int, completion: Completion, score: Score, of_problem: int
    ) -> Candidate:
        text = self.prefills[problem.source] + completion.text
        if not self.stage.keep_stop:
            text = without_stop(text, self.stage.stop)
        reason, detail = own_reason(self.stage, problem, text, completion, score), None
        text = written(text, self.stage.layout)
        name = f"{problem.id}/{number}"
        if reason is None and self.evaluations is not None:
            detail = overlap(self.evaluations, problem.prompt, text)
            reason = None if detail is None else "evaluation_overlap"
        if reason is None and self.kept is not None:
            twin = self.kept.twin(Text(name, problem.id, problem.prompt, text))
            reason, detail = (None, None) if twin is None else ("near_duplicate", twin.name)
        if reason is None and of_problem >= self.stage.max_per_problem:
            reason = "over_cap"
        if reason is None and self.kept is not None:
            self.kept.add(Text(name, problem.id, problem.prompt, text))
        return Candidate(name, problem, completion, score, text, reason or KEPT, detail)


def own_reason(stage: RejectionStage, problem: Problem, text: str, completion: Completion, score: Score) -> str | None:
    """Why a sample is refused by itself, or None. A reward that failed or does not apply proves nothing."""
    if completion.finish == "length":
        return "truncated"
    values: Mapping[str, float | None] = {name: score.parts[name] for name in stage.keep_if}
    if None in values.values():
        return "unscorable"
    below = [name for name, value in values.items() if value is not None and value < stage.keep_if[name]]
    if below:
        return f"reward/{below[0]}"
    found = parts(text, stage.layout) if stage.layout is not None else (chain_of_thought(text), "")
    if found is None:
        return "layout"
    return hard_to_read(found[0], problem.prompt, stage.readable) if stage.readable is not None else None


def without_stop(text: str, stops: Sequence[str]) -> str:
    """The text without the stop text that it ends with, if any."""
    return next((text.removesuffix(stop) for stop in stops if text.endswith(stop)), text)


def reasons(stage: RejectionStage) -> list[str]:
    """Every reason that a stage may give, `kept` first and then in the order of its filters."""
    own = ["truncated", "unscorable", *[f"reward/{name}" for name in stage.keep_if]]
    own += ["layout"] if stage.layout is not None else []
    own += ["mixed_language", "long_paragraph", "code_block"] if stage.readable is not None else []
    own += ["evaluation_overlap"] if stage.decontaminate is not None else []
    own += ["near_duplicate"] if stage.near_duplicates is not None else []
    return [KEPT, *own, "over_cap"]
