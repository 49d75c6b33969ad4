"""The worked numbers of R1's and DAPO's rewards."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo.rewards.language import language
from grpo.rewards.length import overlong
from grpo.rewards.registry import Reward
from grpo.rewards.score import score
from grpo.types import Completion, Group, Problem

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]
WORDS = {"en": "word", "zh": "字"}


def totals(*rows: dict[str, float | None]) -> list[float | None]:
    """The totals of rewards that say what their column says."""
    rewards = [
        Reward(name, 1.0, lambda completion, name=name, **columns: columns[name], False, "as_run", None, ())
        for name in rows[0]
    ]
    completion = (Completion("", (1,), (0.0,), "stop", 0),)
    groups = [Group(Problem(str(number), "", row), (1,), completion) for number, row in enumerate(rows)]
    return [group.scores[0].total for group in score(groups, rewards).groups]


def test_the_rule_reward_is_a_plain_sum() -> None:
    vector = VECTORS["reward.r1_rule"]
    rows = [{"acc": a, "format": f} for a, f in zip(*vector["inputs"].values(), strict=True)]
    assert totals(*rows) == vector["expected"]["reward"]


def test_the_second_stage_adds_what_applies_to_each_item() -> None:
    vector = VECTORS["reward.r1_stage2"]
    names = ("acc", "rm", "format", "lang")
    rows: list[dict[str, Any]] = [{name: item.get(name) for name in names} for item in vector["inputs"]["items"]]
    assert totals(*rows) == pytest.approx(vector["expected"]["reward"])


def test_the_second_stage_by_the_kind_of_problem() -> None:
    """Every reward could judge every item; `where` says which does. Language and format are for both."""
    vector = VECTORS["reward.r1_stage2"]
    only = {"acc": {"kind": "reasoning"}, "rm": {"kind": "general"}, "format": {}, "lang": {}}
    rewards = [
        Reward(
            name, 1.0, lambda completion, name=name, **row: row.get(name, 100.0), False, "as_run", None, (), where=where
        )
        for name, where in only.items()
    ]
    completion = (Completion("", (1,), (0.0,), "stop", 0),)
    groups = [Group(Problem(str(n), "", item), (1,), completion) for n, item in enumerate(vector["inputs"]["items"])]
    found = [group.scores[0].total for group in score(groups, rewards).groups]
    assert found == pytest.approx(vector["expected"]["reward"])


def test_language_consistency_is_the_share_of_target_words() -> None:
    vector = VECTORS["reward.r1_language_consistency"]
    text = " ".join(WORDS[code] for code in vector["inputs"]["cot_words_lang"])
    found = language(f"<think>{text}</think>", target=vector["inputs"]["target"])
    assert found == pytest.approx(vector["expected"]["reward"])


def test_the_soft_overlong_punishment() -> None:
    vector = VECTORS["reward.overlong_soft"]
    limits = {"max_tokens": vector["options"]["L_max"], "buffer": vector["options"]["L_cache"]}
    assert [overlong("", n, **limits) for n in vector["inputs"]["lengths"]] == vector["expected"]["penalty"]
