"""A strict accuracy: right, and said in R1's form. A recipe names it `right_in_form.py:right_in_form`."""

from collections.abc import Mapping
from typing import Any

from grpo.rewards.accuracy import accuracy
from grpo.rewards.format import format_reward


def right_in_form(
    completion: str, answer: str, reasoning_gym: Mapping[str, Any] | None = None, *, partial: bool = False
) -> float:
    """1 when the answer is right and the completion is `<think>...</think><answer>...</answer>`, else 0.

    With `partial`, an answer in form gets what its reasoning-gym task gives: half for -4 where 4 is right.
    """
    if not format_reward(completion):
        return 0.0
    (verdict,) = accuracy([completion], [reasoning_gym], answer=[answer], partial=partial)
    if isinstance(verdict, Exception):
        raise verdict
    return float(verdict)
