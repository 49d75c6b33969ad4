"""Which answers of several completions are the same one, so that they can be counted as votes."""

from collections.abc import Mapping, Sequence

from grpo.rewards.accuracy import same_answers
from grpo.rewards.answers.compare import EXACT, Tolerance
from grpo.rewards.answers.judge import trimmed
from grpo.rewards.extraction import free_answer, mathematical_answer

RIGHT_VOTE = 0
"""The vote of every right answer."""


def found_answer(completion: str, has_scorer: bool) -> str | None:
    """The final answer as the accuracy reward reads it; where the problem has a scorer of its own, any text."""
    answer = free_answer(completion) if has_scorer else mathematical_answer(completion)
    return None if answer is None else answer.text


def votes(answers: Sequence[str | None], right: Sequence[bool], tolerance: Tolerance = EXACT) -> list[int | None]:
    """A number for each answer, the same for the same answers; None where there is no answer to count.

    Right answers equal the gold one, so they are one vote. Of the others, each is compared with the first of every
    group before it, as the accuracy reward compares answers with a gold one.
    """
    texts = [None if answer is None else trimmed(answer) for answer in answers]
    wrong = list(dict.fromkeys(text for text, is_right in zip(texts, right, strict=True) if text and not is_right))
    numbers = _grouped(wrong, tolerance)
    return [
        RIGHT_VOTE if is_right else numbers[text] if text else None for text, is_right in zip(texts, right, strict=True)
    ]


def _grouped(texts: Sequence[str], tolerance: Tolerance) -> Mapping[str, int]:
    """Numbers from 1 on for different texts, equal for those that say the same."""
    numbers: dict[str, int] = {}
    left = list(texts)
    while left:
        first, *others = left
        number = max(numbers.values(), default=RIGHT_VOTE) + 1
        same = same_answers([(first, other) for other in others], tolerance)
        numbers |= {first: number} | {other: number for other, is_same in zip(others, same, strict=True) if is_same}
        left = [other for other, is_same in zip(others, same, strict=True) if not is_same]
    return numbers
