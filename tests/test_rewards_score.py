import math
from collections.abc import Callable
from typing import Any, Literal

import pytest

from grpo.rewards.registry import Reward
from grpo.rewards.score import reward_figures, score
from grpo.rewards.verdict import Noted
from grpo.types import Completion, Group, Problem, Score, ScoredGroup

Messages = Literal["always", "never", "as_run"]


def group(*texts: str, id: str = "p", finish: Literal["stop", "length"] = "stop", **columns: Any) -> Group:
    completions = tuple(Completion(t, tuple(range(len(t))), (0.0,) * len(t), finish, 0) for t in texts)
    return Group(Problem(id, f"prompt {id}", columns), (1, 2), completions)


def reward(fn: Callable[..., Any], name: str = "r", weight: float = 1.0, batched: bool = False, **more: Any) -> Reward:
    return Reward(name, weight, fn, batched, more.get("messages", "as_run"), more.get("accepts"), ())


def only(groups: list[ScoredGroup]) -> list[Score]:
    return [one for scored in groups for one in scored.scores]


def from_column(name: str, weight: float = 1.0) -> Reward:
    """A reward that says what a column says, whatever the completion."""
    return reward(lambda completion, **columns: columns[name], name, weight)


def test_r1s_rule_reward_is_the_plain_sum_of_accuracy_and_format() -> None:
    groups = [group("x", acc=a, format=f) for a, f in [(1, 1), (1, 0), (0, 1), (0, 0)]]
    scored = score(groups, [from_column("acc"), from_column("format")])
    assert [one.total for one in only(scored.groups)] == [2, 1, 1, 0]


def test_r1s_second_stage_adds_language_to_reasoning_and_to_general_problems() -> None:
    rewards = [from_column(name) for name in ("acc", "rm", "format", "language")]
    groups = [
        group("x", acc=1, rm=None, format=1, language=0.9),
        group("x", acc=None, rm=0.3, format=1, language=1.0),
    ]
    scored = score(groups, rewards)
    assert [one.total for one in only(scored.groups)] == pytest.approx([2.9, 2.3])
    assert only(scored.groups)[0].status == {
        "acc": "ok", "rm": "not_applicable", "format": "ok", "language": "ok",
    }  # fmt: skip


def raises(completion: str) -> float:
    raise ValueError(f"cannot judge {completion}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", b"1", [1], {}, object(), 1j])
def test_what_is_not_a_finite_number_is_an_error(value: object) -> None:
    scored = score([group("x")], [reward(lambda completion: value, accepts=frozenset({"completion"}))])
    (one,) = only(scored.groups)
    assert (one.total, one.parts["r"], one.status["r"]) == (None, None, "error")
    assert "expected a finite number or None" in scored.failures[0].message


def test_a_bool_is_a_number() -> None:
    (one,) = only(score([group("x")], [reward(lambda completion: True, accepts=frozenset({"completion"}))]).groups)
    assert (one.total, one.status["r"]) == (1.0, "ok")


def test_a_failed_reward_leaves_no_total_and_says_where_it_failed() -> None:
    accepts = frozenset({"completion"})
    bad = reward(raises, "bad", accepts=accepts)
    good = reward(lambda completion: 1, "good", accepts=accepts)
    scored = score([group("x", id="p7")], [good, bad])
    (one,) = only(scored.groups)
    assert one.total is None
    assert one.parts == {"good": 1.0, "bad": None}
    (failure,) = scored.failures
    assert (failure.reward, failure.problem_id, failure.status, failure.completion) == ("bad", "p7", "error", "x")
    assert failure.message.startswith("ValueError: cannot judge x at ")
    assert f"{__file__}:{raises.__code__.co_firstlineno + 1}" in failure.message


def test_a_timeout_is_a_status_of_its_own() -> None:
    def slow(completion: str) -> float:
        raise TimeoutError("too slow")

    scored = score([group("x")], [reward(slow, accepts=frozenset({"completion"}))])
    assert only(scored.groups)[0].status == {"r": "timeout"}


def test_weight_0_is_shown_and_never_counted() -> None:
    accepts = frozenset({"completion"})
    shown, failing = (
        reward(lambda completion: 5, "shown", 0.0, accepts=accepts),
        reward(raises, "f", 0.0, accepts=accepts),
    )
    (one,) = only(score([group("x", a=3)], [shown, failing, from_column("a", 0.5)]).groups)
    assert (one.total, one.parts["shown"], one.status["f"]) == (1.5, 5.0, "error")
    (alone,) = only(score([group("x")], [shown]).groups)
    assert alone.total is None


def test_nothing_that_applies_leaves_no_total() -> None:
    (one,) = only(score([group("x", a=None)], [from_column("a")]).groups)
    assert (one.total, one.status) == (None, {"a": "not_applicable"})


def test_a_reward_gets_what_it_names_and_no_more() -> None:
    def judge(completion: str, answer: str, completion_tokens: int, finish: str, prompt: str, extra: int = 3) -> float:
        assert (completion, answer, completion_tokens, finish, prompt, extra) == (
            "<think>ab", "4", 2, "length", "prompt p", 3,
        )  # fmt: skip
        return 1.0

    accepts = frozenset({"completion", "answer", "completion_tokens", "finish", "prompt"})
    scored = score([group("ab", finish="length", answer="4", other=1)], [reward(judge, accepts=accepts)], "<think>")
    assert scored.failures == []


def test_a_batch_is_judged_in_one_call_with_lists() -> None:
    calls: list[dict[str, Any]] = []

    def judge(completions: list[str], **columns: Any) -> list[float | None]:
        calls.append({"completions": completions, **columns})
        return [0.0, None, 2.0]

    scored = score([group("a", "bc", id="p", answer="1"), group("d", id="q", level=5)], [reward(judge, batched=True)])
    assert [one.total for one in only(scored.groups)] == [0.0, None, 2.0]
    assert [len(one.scores) for one in scored.groups] == [2, 1]
    assert calls == [
        {
            "prompts": ["prompt p", "prompt p", "prompt q"],
            "completions": ["a", "bc", "d"],
            "completion_ids": [[0], [0, 1], [0]],
            "completion_tokens": [1, 2, 1],
            "finish": ["stop", "stop", "stop"],
            "answer": ["1", "1", None],
            "level": [None, None, 5],
        }
    ]


@pytest.mark.parametrize(
    ("messages", "conversational", "chat"),
    [("as_run", False, False), ("as_run", True, True), ("always", False, True), ("never", True, False)],
)
def test_completions_are_messages_in_a_chat_run(messages: Messages, conversational: bool, chat: bool) -> None:
    def judge(prompts: list[Any], completions: list[Any]) -> list[float]:
        expected = ([{"role": "user", "content": "prompt p"}], [{"role": "assistant", "content": "a"}])
        assert (prompts[0], completions[0]) == (expected if chat else ("prompt p", "a"))
        return [1.0]

    one = reward(judge, batched=True, messages=messages, accepts=frozenset({"prompts", "completions"}))
    assert score([group("a")], [one], conversational=conversational).failures == []


def test_a_batch_may_fail_as_a_whole_or_in_part() -> None:
    accepts = frozenset({"completions"})
    short = reward(lambda completions: [1.0], "short", batched=True, accepts=accepts)
    partly = reward(lambda completions: [1.0, TimeoutError("5 s")], "partly", batched=True, accepts=accepts)
    scored = score([group("a", "b")], [short, partly])
    assert [one.status for one in only(scored.groups)] == [
        {"short": "error", "partly": "ok"},
        {"short": "error", "partly": "timeout"},
    ]
    assert scored.failures[0].message == "returned 1 rewards for 2 completions"


def test_figures_are_means_where_a_reward_applied_and_counts_where_it_did_not() -> None:
    groups = [group("x", a=a, b=b) for a, b in [(1, 2), (0, None), (None, None)]]
    figures = reward_figures(score(groups, [from_column("a"), from_column("b", 0.5)]).groups)
    assert figures == {
        "reward/mean": 1.0,
        "reward/std": 1.0,
        "reward/a": 0.5,
        "reward/a/not_applicable": 1.0,
        "reward/a/error": 0.0,
        "reward/a/timeout": 0.0,
        "reward/b": 2.0,
        "reward/b/not_applicable": 2.0,
        "reward/b/error": 0.0,
        "reward/b/timeout": 0.0,
    }
    assert reward_figures([]) == {}


def shaped(name: str, **more: Any) -> Reward:
    return Reward(name, 1.0, lambda completion, **columns: columns[name], False, "as_run", None, (), **more)


def test_accuracy_counts_only_where_the_format_is_right() -> None:
    rewards = [shaped("accuracy", gate=("format", 1.0)), shaped("format")]
    groups = [group("x", accuracy=1, format=f) for f in (1, 0.9, None)]
    scores = only(score(groups, rewards).groups)
    assert [one.total for one in scores] == [2.0, 0.9, 1.0]  # a gate that does not apply is open
    assert [one.parts["accuracy"] for one in scores] == [1.0, 1.0, 1.0]
    assert [one.counted["accuracy"] for one in scores] == [1.0, 0.0, 1.0]


def test_the_failure_of_a_gate_is_the_failure_of_what_it_gates() -> None:
    gate = reward(raises, "gate", weight=0.0, accepts=frozenset({"completion"}))
    (one,) = only(score([group("x", a=1)], [shaped("a", gate=("gate", 1.0)), gate]).groups)
    assert (one.total, one.parts) == (None, {"a": 1.0, "gate": None})


def test_a_reward_counts_within_its_bounds() -> None:
    scores = only(score([group("x", a=a) for a in (-5, 0.3, 7)], [shaped("a", clip=(-1.0, 1.0))]).groups)
    assert [one.total for one in scores] == [-1.0, 0.3, 1.0]
    assert [one.parts["a"] for one in scores] == [-5.0, 0.3, 7.0]


def test_the_note_of_a_number_is_kept() -> None:
    noting = reward(lambda completion: Noted(0.5, "by guess"), accepts=frozenset({"completion"}))
    (one,) = only(score([group("x")], [noting]).groups)
    assert (one.total, dict(one.notes)) == (0.5, {"r": "by guess"})
