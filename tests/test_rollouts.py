"""What a step's rollout does with rewards that fail."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo.cli import train
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import load_rewards
from grpo.rewards.score import RewardFailure, Scoring
from grpo.rollouts import check_failures
from grpo.types import Group, Problem, Score, ScoredGroup, Status, UserError

REWARDS = load_rewards(
    [
        RewardSettings(name="accuracy"),
        RewardSettings(name="format", weight=0.0),
        RewardSettings.model_validate({"name": "repetition", "only_if": "format"}),
        RewardSettings(name="language", weight=0.0),
    ]
)


def scoring(*rows: tuple[int, dict[str, Status]]) -> Scoring:
    """As many completions as each row says, on which every reward was ok but for those named."""
    scores, failures = [], []
    for count, named in rows:
        status: dict[str, Status] = dict.fromkeys((reward.name for reward in REWARDS), "ok")
        scores += [Score(None if named else 1.0, {}, status | named)] * count
        broken = [name for name in named if named[name] in ("error", "timeout")]
        failures += [RewardFailure(name, "p", "error", f"{name} broke", "text") for name in broken] * count
    return Scoring([ScoredGroup(Group(Problem("p", "?", {}), (1,), ()), tuple(scores))], failures)


NOTHING: dict[str, Status] = dict.fromkeys(("accuracy", "format", "repetition"), "not_applicable")


def test_what_does_not_apply_is_no_failure() -> None:
    """Of 128 completions 26 have no reward that counts; on one a reward times out, of weight 0 or not."""
    check_failures(scoring((101, {}), (26, NOTHING), (1, {"accuracy": "timeout"})), REWARDS, 0.1, 1)
    check_failures(scoring((101, {}), (26, NOTHING), (1, {"language": "timeout"})), REWARDS, 0.0, 1)


@pytest.mark.parametrize("name", ["accuracy", "format"])  # one with a weight, and the gate of one
def test_failures_beyond_the_share_stop_the_run(name: str) -> None:
    rows = (8, {}), (1, {"language": "error"})
    check_failures(scoring(*rows, (1, {name: "error"})), REWARDS, 0.1, 1)
    with pytest.raises(UserError, match=f"step 1: rewards failed on 2 of 11 .* the first: {name}: {name} broke"):
        check_failures(scoring(*rows, (2, {name: "error"})), REWARDS, 0.1, 1)


def test_a_share_is_of_a_full_step_where_this_one_is_smaller() -> None:
    """A tenth of 16 completions: one of the last two may fail, and two of them."""
    for failed in (1, 2):
        check_failures(scoring((2 - failed, {}), (failed, {"accuracy": "timeout"})), REWARDS, 0.125, 9, of=16)
    with pytest.raises(UserError, match="rewards failed on 3 of 4 completions"):
        check_failures(scoring((1, {}), (3, {"accuracy": "timeout"})), REWARDS, 0.125, 9, of=16)


def test_a_step_to_which_no_reward_applies_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"applies to any of 10 completions \(1 failed, the others gave None\)"):
        check_failures(scoring((9, NOTHING), (1, {"accuracy": "error"})), REWARDS, 0.1, 1)


FLAKY = """
calls = 0
def flaky(completion):
    global calls
    calls += 1
    if calls in (1, 17):
        raise ValueError("broken")
    return 0.0 if calls < 5 else calls % 2
"""
"""The first group of 16 completions has a failure and no signal; the group of 4 that replaces it has one, too."""


def test_a_refill_is_judged_with_the_step_that_it_fills(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FLAKY)
    stage = {"kind": "grpo", "steps": 1, "prompts_per_step": 4, "completions_per_prompt": 4, "lr": 1e-3}
    stage |= {"dynamic_sampling": {"max_rounds": 3}, "rollout": {"max_new_tokens": 4}, "kl": {"beta": 0}}
    recipe = write_recipe(stages=[stage], rewards=[{"name": "own.py:flaky"}])
    assert train([str(recipe)]) == 0
    (row,) = map(json.loads, (tmp_path / "runs" / "tiny" / "01-grpo" / "metrics.jsonl").read_text().splitlines())
    assert (row["groups/sampled"], row["groups/kept"]) == (5, 4)
