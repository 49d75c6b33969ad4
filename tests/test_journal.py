"""A rollout comes back exactly, or not at all."""

import datetime
import math

import pytest
import torch

from grpo.feed import FeedChange
from grpo.journal import Rollout, keep_rollouts, prune_rollouts, read_rollout, write_rollout
from grpo.rollouts import saved_rollouts
from grpo.types import Completion, Group, Problem, Routes, Score, ScoredGroup, UserError

PROBLEM = Problem("sum/1", "1 + 1 =", {"answer": b"2", "asked": datetime.date(2025, 1, 20)})
PROBLEMS = {"sum/1": PROBLEM}


def make_rollout() -> Rollout:
    right = Completion("zwei 中\n\u2028\ud800", (5, 0), (-0.1, math.nextafter(-1.0, 0.0)), "stop", 7)
    wrong = Completion("", (), (), "length", 7, Routes.of(torch.tensor([[[3, 0]], [[1, 300]]])))
    scores = (
        Score(1 / 3, {"accuracy": 1 / 3, "format": None}, {"accuracy": "ok", "format": "not_applicable"}),
        Score(None, {"accuracy": None}, {"accuracy": "timeout"}),
    )
    group = ScoredGroup(Group(PROBLEM, (1, 2), (right, wrong)), scores)
    changes = FeedChange({"": 4}, ("b",), (("a", 1.0),)), FeedChange({"": 6}, ("a",), (("b", None),))
    return Rollout(11, 3, [group], {"time/rollout": 0.1}, changes)


def test_a_rollout_comes_back_exactly(tmp_path):
    write_rollout(tmp_path, make_rollout())
    assert read_rollout(tmp_path, 11, PROBLEMS) == make_rollout()


def test_equal_rollouts_are_equal_files(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_rollout(folder, make_rollout())
    assert (tmp_path / "a" / "step-000011.jsonl.gz").read_bytes() == (
        tmp_path / "b" / "step-000011.jsonl.gz"
    ).read_bytes()


def test_a_logprob_that_is_not_finite_comes_back(tmp_path):
    completion = Completion("x", (1, 2), (math.nan, -math.inf), "stop", 0)
    group = ScoredGroup(Group(PROBLEM, (1,), (completion,)), (Score(0.0, {}, {}),))
    write_rollout(tmp_path, Rollout(1, 2, [group], {}))
    rollout = read_rollout(tmp_path, 1, PROBLEMS)
    assert rollout is not None
    not_a_number, minus_infinity = rollout.scored[0].group.completions[0].sampler_logprobs
    assert math.isnan(not_a_number)
    assert minus_infinity == -math.inf


def test_an_empty_rollout_comes_back(tmp_path):
    write_rollout(tmp_path, Rollout(1, 2, [], {}))
    assert read_rollout(tmp_path, 1, {}) == Rollout(1, 2, [], {})


def test_a_file_cut_anywhere_is_no_rollout(tmp_path):
    write_rollout(tmp_path, make_rollout())
    file = tmp_path / "step-000011.jsonl.gz"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert read_rollout(tmp_path, 11, PROBLEMS) is None


def test_an_absent_rollout_is_none(tmp_path):
    assert read_rollout(tmp_path / "absent", 3, PROBLEMS) is None


def test_a_problem_that_the_data_lost_is_named(tmp_path):
    write_rollout(tmp_path, make_rollout())
    with pytest.raises(UserError, match=r"step-000011\.jsonl\.gz: .*'sum/1'.*--fresh"):
        read_rollout(tmp_path, 11, {})


def test_rollouts_of_another_line_of_weights_go(tmp_path):
    """Step 13 is missing: 14 was sampled by a run that came further, and that a damaged checkpoint threw back."""
    for step in (3, 11, 12, 14):
        write_rollout(tmp_path, Rollout(step, 0, [], {}))
    keep_rollouts(tmp_path, saved_rollouts(tmp_path, 10, []))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000011.jsonl.gz", "step-000012.jsonl.gz"]


def test_pruning_leaves_the_rollouts_to_come(tmp_path):
    for step in (9, 10, 11, 1000000):
        write_rollout(tmp_path, Rollout(step, 0, [], {}))
    prune_rollouts(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000011.jsonl.gz", "step-1000000.jsonl.gz"]
