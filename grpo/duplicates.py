"""Near-duplicates among many texts: MinHash proposes, exact similarity decides."""

from dataclasses import dataclass, field
from typing import Any

from grpo.reading import runs, words
from grpo.rejection_settings import DuplicateSettings

PERMUTATIONS = 128
MISSED = 1e-3
"""How likely a pair that is just similar enough may be missed."""


@dataclass(frozen=True)
class Text:
    """A completion of a problem. `name` is what a near-duplicate of it is said to be one of."""

    name: str
    problem_id: str
    prompt: str
    completion: str


@dataclass
class KeptTexts:
    """The texts kept so far, and which of them another one is close to."""

    settings: DuplicateSettings
    texts: list[Text] = field(default_factory=list)
    index: Any = None

    def __post_init__(self) -> None:
        from rensa import RMinHashLSH

        self.index = RMinHashLSH(self.settings.similarity, PERMUTATIONS, bands(self.settings.similarity))

    def twin(self, text: Text) -> Text | None:
        """The first kept text of which this is a near-duplicate, or None.

        Two are when their completions are similar, and their problems are the same or similar too: many problems may
        have one short answer.
        """
        proposed = sorted(self.index.query(self._sketch(text)))
        return next((self.texts[key] for key in proposed if self._alike(self.texts[key], text)), None)

    def add(self, text: Text) -> None:
        """Keep a text."""
        self.index.insert(len(self.texts), self._sketch(text))
        self.texts.append(text)

    def _alike(self, one: Text, other: Text) -> bool:
        n, least = self.settings.words, self.settings.similarity
        similar = jaccard(shingles(one.completion, n), shingles(other.completion, n)) >= least
        return similar and (
            one.problem_id == other.problem_id or jaccard(shingles(one.prompt, n), shingles(other.prompt, n)) >= least
        )

    def _sketch(self, text: Text) -> Any:
        from rensa import RMinHash

        sketch = RMinHash(PERMUTATIONS, 0)
        sketch.update(sorted(shingles(text.completion, self.settings.words)))
        return sketch


def bands(similarity: float) -> int:
    """The fewest bands of MinHash values that miss few pairs of a similarity, and propose few others.

    In b bands of r a pair of similarity s is missed with probability (1 - s^r)^b: 5e-8 for 0.8 in 32 bands of 4.
    """
    rows = next((r for r in (4, 2) if (1 - similarity**r) ** (PERMUTATIONS // r) <= MISSED), 1)
    return PERMUTATIONS // rows


def shingles(text: str, n: int) -> frozenset[str]:
    """The runs of `n` words of a text; a shorter one is one run of its own, signs included."""
    return frozenset(runs(text, n)) if len(words(text)) >= n else frozenset({"".join(text.casefold().split())})


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of the union of two sets that is in both.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    return len(one & other) / len(one | other)
