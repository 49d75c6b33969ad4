"""Which texts share a run of words with a problem of an evaluation."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from grpo.reading import runs


@dataclass(frozen=True)
class EvaluationIndex:
    """The runs of `n` words of evaluation problems, and the problems whole: some are shorter, or boilerplate alone."""

    n: int
    runs: frozenset[str]
    wholes: frozenset[str]


def evaluation_index(prompts: Iterable[str], n: int, common: int) -> EvaluationIndex:
    """The index of these problems, without runs that stand in more than `common` of them.

    Such runs are the boilerplate that a set's problems share, as in GPT-3's decontamination (arXiv 2005.14165, C).
    """
    counts: Counter[str] = Counter()
    asked = set(prompts)
    for prompt in asked:
        counts.update(set(runs(prompt, n)))
    kept = frozenset(run for run, count in counts.items() if count <= common)
    return EvaluationIndex(n, kept, frozenset(map(_whole, asked)))


def overlap(index: EvaluationIndex, prompt: str, completion: str = "") -> str | None:
    """The first run that a problem or its completion shares with an evaluation, or the whole problem, or None."""
    if _whole(prompt) in index.wholes:
        return prompt
    shared = (run for text in (prompt, completion) for run in runs(text, index.n) if run in index.runs)
    return next(shared, None)


def _whole(text: str) -> str:
    """A text without case and white space; signs stay, since 3-1 is not 3+1."""
    return "".join(text.casefold().split())
