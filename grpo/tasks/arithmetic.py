"""Sums with worked solutions: small enough for a tiny model to learn, many enough to hold some out."""

import random
from collections.abc import Iterator
from itertools import accumulate, pairwise

from grpo.types import UserError

MAX_TERMS = 8
"""Traces grow with the number of terms; more than this is no longer a small problem."""


def sums(size: int, seed: int = 0, terms: int = 3, max_value: int = 20, hasty: float = 0.0) -> Iterator[dict[str, str]]:
    """Yield `size` different sums of `terms` numbers from 1 to `max_value`, each with a demonstration.

    3+14+8= comes with the answer 25 and the completion
    <think>3 and 14 is 17, 17 and 8 is 25</think><answer>25</answer>

    A share `hasty` of the demonstrations has a bad habit: it stops thinking before the last number and answers with
    what it has, here 17; `answer` stays right. A model that imitates them does both, and reinforcement learning finds
    out that thinking to the end pays.

    Raises:
        UserError: there are fewer different sums than `size`, or a parameter is out of range.
    """
    _check(size, terms, max_value, hasty)
    rng = random.Random(seed)
    for code in rng.sample(range(max_value**terms), size):
        numbers = [code // max_value**place % max_value + 1 for place in range(terms)]
        stops_early = rng.random() < hasty
        yield {
            "prompt": "+".join(map(str, numbers)) + "=",
            "answer": str(sum(numbers)),
            "completion": _demonstration(numbers[:-1] if stops_early else numbers),
        }


def _check(size: int, terms: int, max_value: int, hasty: float) -> None:
    if not 2 <= terms <= MAX_TERMS:
        raise UserError(f"sums: terms must be from 2 to {MAX_TERMS}, got {terms}")
    if not 1 <= max_value <= 99:
        raise UserError(f"sums: max_value must be from 1 to 99, got {max_value}")
    if not 0 <= hasty <= 1:
        raise UserError(f"sums: hasty must be from 0 to 1, got {hasty}")
    if hasty and terms < 3:
        raise UserError(f"sums: hasty needs at least 3 terms, got {terms}: with 2 nothing is left to think about")
    if not 1 <= size <= max_value**terms:
        raise UserError(
            f"sums: size must be from 1 to {max_value**terms}, the number of different sums of {terms} numbers up to "
            f"{max_value}, got {size}: raise terms or max_value"
        )


def _demonstration(numbers: list[int]) -> str:
    """The sum of these numbers, worked out one after the other."""
    totals = list(accumulate(numbers))
    steps = [
        f"{so_far} and {number} is {total}"
        for number, (so_far, total) in zip(numbers[1:], pairwise(totals), strict=True)
    ]
    return f"<think>{', '.join(steps)}</think><answer>{totals[-1]}</answer>"
