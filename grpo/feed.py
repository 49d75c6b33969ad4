"""Which problems a step takes: from one source or a mixture, all of them or those that have something to teach.

What comes next is a function of the feed, its `FeedState` and the step, so the state is all that a checkpoint needs.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from math import ceil

from grpo.curriculum_settings import CurriculumSettings
from grpo.data import check_enough, draw
from grpo.problem_settings import ProblemSettings, SourceSettings
from grpo.types import Problem

Visit = tuple[str, float | None]
"""A problem's id and the share of its completions that were right, None where none could be judged."""


@dataclass(frozen=True)
class Source:
    """Training problems that are drawn from in their own order, `weight` against other sources, from a step on."""

    name: str
    problems: Sequence[Problem]
    weight: float = 1.0
    first_step: int = 1


@dataclass(frozen=True)
class Feed:
    """Where a stage's problems come from."""

    sources: tuple[Source, ...]
    seed: int
    curriculum: CurriculumSettings | None = None


@dataclass(frozen=True)
class FeedState:
    """How far each source has been drawn, and what a curriculum knows of each problem, by id.

    `history` holds the pass rates of a problem's last visits, `passed` how often it was passed over since.
    """

    places: Mapping[str, int] = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    passed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FeedChange:
    """What a round does to the state: where the sources are after it, what was passed over, what was then visited."""

    places: Mapping[str, int] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    visits: tuple[Visit, ...] = ()


def make_feed(
    settings: ProblemSettings, train: Sequence[Problem], seed: int, curriculum: CurriculumSettings | None = None
) -> Feed:
    """The feed of a stage's training problems."""
    if settings.sources is None:
        return Feed((Source("", train),), seed, curriculum)
    return Feed(tuple(_source(source, train) for source in settings.sources), seed, curriculum)


def _source(settings: SourceSettings, train: Sequence[Problem]) -> Source:
    own = [problem for problem in train if problem.source == settings.shown_as]
    return Source(settings.shown_as, own, settings.weight, settings.first_step)


def check_feed(feed: Feed, settings: ProblemSettings, count: int) -> None:
    """Refuse a source that is empty, or smaller than its part of a step's `count` problems unless it may wrap.

    Raises:
        UserError: there is too little data.
    """
    for source, own in zip(feed.sources, settings.each, strict=True):
        others = [other.weight for other in feed.sources if other.first_step <= source.first_step]
        where = f"problems of source {source.name}" if source.name else "problems"
        check_enough(source.problems, ceil(count * source.weight / sum(others)), own, where)


def unreached(feed: Feed, steps: int) -> list[str]:
    """What a user should know of sources that begin after the last of a stage's steps, a sentence each."""
    return [
        f"problems of source {one.name} begin at step {one.first_step} and the stage ends with {steps}: none is asked"
        for one in feed.sources
        if one.first_step > steps
    ]


def take(feed: Feed, state: FeedState, step: int, count: int) -> tuple[list[Problem], FeedChange]:
    """The `count` problems that come next at a step, and what drawing them changes.

    Each source that has begun gives its share of the step by weight, rounded down or up so that it is exact over many
    steps. A curriculum passes over what it skips, for one round of the source at most: then it takes what comes.
    """
    begun = [source for source in feed.sources if source.first_step <= step]
    place = sum(state.places.values())
    order = _picks([source.weight for source in begun], count, f"{feed.seed}/mixture/{place}")
    drawn = {source.name: _take_from(source, feed, state, order.count(i)) for i, source in enumerate(begun)}
    lines = [iter(drawn[source.name][0]) for source in begun]
    places = {**state.places, **{name: end for name, (_, _, end) in drawn.items()}}
    passed = tuple(problem for _, ids, _ in drawn.values() for problem in ids)
    return [next(lines[i]) for i in order], FeedChange(places, passed)


def _picks(weights: Sequence[float], count: int, key: str) -> list[int]:
    """`count` indices of weights, in a shuffled order: systematic sampling, from a start that only `key` decides.

    Weights 3 and 1 give 4 picks three times 0 and once 1; 6 picks four or five times 0.
    """
    ends = list(accumulate(weights))
    start = _uniform(key)
    points = [(start + i) * ends[-1] / count for i in range(count)]
    picks = [min(bisect_right(ends, point), len(ends) - 1) for point in points]
    return [picks[i] for i in sorted(range(count), key=lambda i: _uniform(f"{key}/{i}"))]


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def _take_from(source: Source, feed: Feed, state: FeedState, count: int) -> tuple[list[Problem], list[str], int]:
    """`count` problems of a source, the ids passed over for them, and the place in the source after them."""
    place = state.places.get(source.name, 0)
    key = f"{feed.seed}/{source.name}" if source.name else feed.seed
    if feed.curriculum is None:
        return draw(source.problems, key, place, count), [], place + count
    taken: list[Problem] = []
    passed: list[str] = []
    now = Counter(state.passed)
    while len(taken) < count:
        (problem,) = draw(source.problems, key, place, 1)
        place += 1
        if len(passed) < len(source.problems) and _passes_over(problem.id, state, now[problem.id], feed.curriculum):
            passed.append(problem.id)
            now[problem.id] += 1
        else:
            taken.append(problem)
    return taken, passed, place


# --- difficulty by measured pass rate ---------------------------------------------------------------------------------


def skips(problem_id: str, state: FeedState, curriculum: CurriculumSettings) -> bool:
    """Whether the last visits of a problem were all right or all wrong, every completion of them."""
    rates = state.history.get(problem_id, ())
    return len(rates) == curriculum.visits and set(rates) in ({0.0}, {1.0})


def _passes_over(problem_id: str, state: FeedState, times: int, curriculum: CurriculumSettings) -> bool:
    """Whether a problem that is skipped, and was so `times` times, need not be tested again yet."""
    return times < curriculum.retest_after and skips(problem_id, state, curriculum)


def after(state: FeedState, change: FeedChange, curriculum: CurriculumSettings | None = None) -> FeedState:
    """The state once a round has been learned from. Neither argument changes."""
    if curriculum is None:
        return FeedState(dict(change.places))
    history, passed = dict(state.history), dict(state.passed)
    for problem in change.passed:
        passed[problem] = passed.get(problem, 0) + 1
    for problem, rate in change.visits:
        passed.pop(problem, None)
        if rate is not None:
            history[problem] = [*history.get(problem, ()), rate][-curriculum.visits :]
    return FeedState(dict(change.places), history, passed)


def after_all(
    state: FeedState, changes: Iterable[FeedChange], curriculum: CurriculumSettings | None = None
) -> FeedState:
    """The state once changes have been made in their order: a problem may be visited first and passed over then."""
    return reduce(lambda now, change: after(now, change, curriculum), changes, state)


def curriculum_figures(feed: Feed, state: FeedState) -> dict[str, float]:
    """Of all training problems: the shares seen and skipped; of those seen: the mean pass rate when last visited."""
    if feed.curriculum is None:
        return {}
    problems = [problem.id for source in feed.sources for problem in source.problems]
    seen = [rates for problem in problems if (rates := state.history.get(problem))]
    skipped = sum(skips(problem, state, feed.curriculum) for problem in problems)
    figures = {"curriculum/seen": len(seen) / len(problems), "curriculum/skipped": skipped / len(problems)}
    return figures | ({"curriculum/pass_rate": sum(rates[-1] for rates in seen) / len(seen)} if seen else {})
