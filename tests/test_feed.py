from collections import Counter
from dataclasses import replace

import pytest

from grpo.curriculum_settings import CurriculumSettings
from grpo.data import draw
from grpo.feed import (
    Feed,
    FeedChange,
    FeedState,
    Source,
    Visit,
    after,
    after_all,
    check_feed,
    curriculum_figures,
    make_feed,
    take,
    unreached,
)
from grpo.problem_settings import ProblemSettings
from grpo.types import Problem, UserError


def problems(source: str, count: int) -> list[Problem]:
    return [Problem(f"{source}{i}", f"{source}{i}", {}, source) for i in range(count)]


def steps(feed: Feed, count: int, until: int, state: FeedState) -> list[list[Problem]]:
    drawn = []
    for step in range(1, until + 1):
        taken, change = take(feed, state, step, count)
        state = after(state, change, feed.curriculum)
        drawn.append(taken)
    return drawn


def test_a_source_that_begins_after_the_last_step_is_told() -> None:
    sources = tuple(Source(name, problems(name, 1), first_step=step) for name, step in (("a", 1), ("b", 5), ("c", 6)))
    said = "problems of source c begin at step 6 and the stage ends with 5: none is asked"
    assert unreached(Feed(sources, seed=0), steps=5) == [said]


def test_one_source_comes_in_the_order_of_its_epochs() -> None:
    feed = Feed((Source("", problems("", 10)),), seed=3)
    drawn = [problem for step in steps(feed, 4, 7, FeedState()) for problem in step]
    assert drawn == draw(problems("", 10), 3, 0, 28)


def test_sources_share_every_step_by_weight() -> None:
    feed = Feed((Source("a", problems("a", 20), 3.0), Source("b", problems("b", 20), 1.0)), seed=0)
    counts = [Counter(problem.source for problem in step) for step in steps(feed, 8, 20, FeedState())]
    assert counts == [Counter(a=6, b=2)] * 20
    uneven = [Counter(problem.source for problem in step)["b"] for step in steps(feed, 6, 200, FeedState())]
    assert set(uneven) == {1, 2}  # 1.5 a step, rounded down or up
    assert sum(uneven) / 200 == pytest.approx(1.5, abs=0.1)


def test_sources_are_mixed_within_a_step() -> None:
    """A minibatch is a part of the step in its order, and should not hold one source alone."""
    feed = Feed((Source("a", problems("a", 40)), Source("b", problems("b", 40))), seed=0)
    halves = [Counter(problem.source for problem in step[:8]) for step in steps(feed, 16, 20, FeedState())]
    assert len({half["a"] for half in halves}) > 2
    assert all(0 < half["a"] < 8 for half in halves)


def test_a_source_begins_at_its_first_step() -> None:
    feed = Feed((Source("rules", problems("r", 9)), Source("chat", problems("c", 9), 1.0, first_step=3)), seed=0)
    counts = [Counter(problem.id[0] for problem in step) for step in steps(feed, 4, 4, FeedState())]
    assert counts == [Counter(r=4), Counter(r=4), Counter(r=2, c=2), Counter(r=2, c=2)]


def test_going_on_from_a_state_is_going_on() -> None:
    sources = (Source("a", problems("a", 7), 2.0), Source("b", problems("b", 5), 1.0, first_step=2))
    feed = Feed(sources, seed=1)
    whole = steps(feed, 5, 6, FeedState())
    state = FeedState()
    for step in (1, 2, 3):
        state = after(state, take(feed, state, step, 5)[1])
    assert take(feed, state, 4, 5)[0] == whole[3]


def test_always_and_never_solved_problems_are_passed_over_and_tested_again() -> None:
    """Of four problems x0 is always and x1 never right: they are passed over in two epochs, and asked in the third."""
    feed = Feed((Source("", problems("x", 4)),), 0, CurriculumSettings(visits=2, retest_after=2))
    state = FeedState({"": 8}, {"x0": [1.0, 1.0], "x1": [0.0, 0.0], "x2": [0.0, 0.5], "x3": [1.0]})
    seen: Counter[str] = Counter()
    for step in range(1, 13):
        taken, change = take(feed, state, step, 2)
        visited: tuple[Visit, ...] = tuple((p.id, {"x0": 1.0, "x1": 0.0}.get(p.id, 0.5)) for p in taken)
        state = after(state, replace(change, visits=visited), feed.curriculum)
        seen.update(problem.id for problem in taken)
    assert seen == Counter(x0=3, x1=3, x2=9, x3=9)  # 24 problems from 9 epochs


def test_where_all_is_solved_a_step_is_full_all_the_same() -> None:
    feed = Feed((Source("", problems("x", 5)),), 0, CurriculumSettings(visits=1, retest_after=9))
    state = FeedState({}, {f"x{i}": [1.0] for i in range(5)})
    taken, change = take(feed, state, 1, 3)
    assert len({problem.id for problem in taken}) == 3
    assert sorted(change.passed) == ["x0", "x1", "x2", "x3", "x4"]


def test_what_a_visit_leaves() -> None:
    curriculum = CurriculumSettings(visits=2)
    state = FeedState({"": 3}, {"a": [0.0, 0.5]}, {"a": 2, "b": 1})
    later = after(state, FeedChange({"": 5}, ("b", "c"), (("a", 1.0), ("d", None))), curriculum)
    assert later == FeedState({"": 5}, {"a": [0.5, 1.0]}, {"b": 2, "c": 1})
    assert state.history == {"a": [0.0, 0.5]}


def test_rounds_of_a_step_count_in_their_order() -> None:
    """a was passed over twice, is visited in the first round, solved again, and passed over in the second."""
    curriculum = CurriculumSettings(visits=2)
    rounds = [FeedChange({"": 4}, ("b",), (("a", 1.0),)), FeedChange({"": 6}, ("a",), (("b", 0.5),))]
    later = after_all(FeedState({"": 3}, {"a": [1.0]}, {"a": 2}), rounds, curriculum)
    assert later == FeedState({"": 6}, {"a": [1.0, 1.0], "b": [0.5]}, {"a": 1})
    assert after_all(later, [], curriculum) == later


def test_figures_of_a_curriculum_by_hand() -> None:
    feed = Feed((Source("", problems("x", 4)),), 0, CurriculumSettings(visits=2))
    assert curriculum_figures(feed, FeedState()) == {"curriculum/seen": 0.0, "curriculum/skipped": 0.0}
    state = FeedState({}, {"x0": [1.0, 1.0], "x1": [0.0, 0.5], "x2": [0.0]})
    assert curriculum_figures(feed, state) == pytest.approx(
        {"curriculum/seen": 0.75, "curriculum/skipped": 0.25, "curriculum/pass_rate": 0.5}
    )
    assert curriculum_figures(Feed(feed.sources, 0), state) == {}


def test_a_source_must_be_as_large_as_its_part_of_a_step() -> None:
    settings = ProblemSettings.model_validate([{"path": "a.jsonl", "weight": 3}, {"path": "b.jsonl"}])
    train = [*problems("a", 6), *problems("b", 2)]
    check_feed(make_feed(settings, train, 0), settings, 8)
    with pytest.raises(UserError, match="problems of source a: expected at least 7 to train on, one step's, got 6"):
        check_feed(make_feed(settings, train, 0), settings, 9)
