"""TRL's own reward functions run unchanged, on plain text and on chats."""

import threading

import pytest

from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import check_columns, load_rewards
from grpo.rewards.score import Scoring, score
from grpo.types import Completion, Group, Problem

NAMES = ["trl.rewards:accuracy_reward", "trl.rewards:think_format_reward"]
TEXTS = [
    r"<think>halves</think> It is \boxed{\frac{2}{4}}",
    r"<think>halves</think> It is \boxed{3}",
    r"It is \boxed{0.5}",
]


def scoring(conversational: bool) -> Scoring:
    completions = tuple(Completion(text, (1,), (0.0,), "stop", 0) for text in TEXTS)
    group = Group(Problem("p", "1/2?", {"solution": r"$\frac{1}{2}$", "other": 1}), (1,), completions)
    rewards = load_rewards([RewardSettings(name=name) for name in NAMES])
    for reward in rewards:
        check_columns(reward, group.problem.columns)
    return score([group], rewards, conversational=conversational)


@pytest.mark.parametrize("conversational", [False, True])
def test_trls_rewards_run_unchanged(conversational: bool) -> None:
    scored = scoring(conversational)
    assert scored.failures == []
    assert [dict(one.parts) for one in scored.groups[0].scores] == [
        {"accuracy_reward": 1.0, "think_format_reward": 1.0},
        {"accuracy_reward": 0.0, "think_format_reward": 1.0},
        {"accuracy_reward": 1.0, "think_format_reward": 0.0},
    ]


def test_trls_rewards_run_in_a_thread() -> None:
    found: list[Scoring] = []
    thread = threading.Thread(target=lambda: found.append(scoring(False)))
    thread.start()
    thread.join()
    assert [one.total for one in found[0].groups[0].scores] == [2.0, 1.0, 1.0]
