"""Sums with worked solutions: small enough for a tiny model to learn, many enough to hold some out."""

import random
from collections.abc import Iterator

from grpo.types import UserError

MAX_TERMS = 8
"""Traces grow with the number of terms; more than this is no longer a small problem."""


def sums(
    size: int, seed: int = 0, terms: int = 3, max_value: int = 20, error_rate: float = 0.0
) -> Iterator[dict[str, str]]:
    """Yield `size` different sums of `terms` numbers from 1 to `max_value`, each with a demonstration.

    3+14+8= comes with the answer 25 and the completion
    <think>add 3 and 14 to get 17, then add 8 to get 25</think><answer>25</answer>

    A share `error_rate` of the completions makes one typical mistake, in the carry of the last addition; `answer` stays
    right. The mistake is the same at each try, so a model that imitates makes it in greedy decoding once the share
    passes one half, while samples still hold right answers for reinforcement learning to find.

    Raises:
        UserError: there are fewer different sums than `size`, or a parameter is out of range.
    """
    _check(size, terms, max_value, error_rate)
    rng = random.Random(seed)
    for code in rng.sample(range(max_value**terms), size):
        numbers = [code // max_value**place % max_value + 1 for place in range(terms)]
        wrong = rng.random() < error_rate
        yield {
            "prompt": "+".join(map(str, numbers)) + "=",
            "answer": str(sum(numbers)),
            "completion": _demonstration(numbers, _mistake(numbers) if wrong else 0),
        }


def _check(size: int, terms: int, max_value: int, error_rate: float) -> None:
    if not 2 <= terms <= MAX_TERMS:
        raise UserError(f"sums: terms must be from 2 to {MAX_TERMS}, got {terms}")
    if not 1 <= max_value <= 99:
        raise UserError(f"sums: max_value must be from 1 to 99, got {max_value}")
    if not 0 <= error_rate <= 1:
        raise UserError(f"sums: error_rate must be from 0 to 1, got {error_rate}")
    if not 1 <= size <= max_value**terms:
        raise UserError(
            f"sums: size must be from 1 to {max_value**terms}, the number of different sums of {terms} numbers up to "
            f"{max_value}, got {size}: raise terms or max_value"
        )


def _mistake(numbers: list[int]) -> int:
    """What the last addition goes wrong by: its carry forgotten, or one made up where there is none."""
    carries = sum(numbers[:-1]) % 10 + numbers[-1] % 10 >= 10
    return -10 if carries else 10


def _demonstration(numbers: list[int], mistake: int) -> str:
    total = numbers[0]
    steps: list[str] = []
    for number in numbers[1:]:
        subject = f"{total} and {number}" if not steps else f"{number}"
        total += number + (mistake if len(steps) == len(numbers) - 2 else 0)
        steps.append(f"add {subject} to get {total}")
    return f"<think>{', then '.join(steps)}</think><answer>{total}</answer>"
