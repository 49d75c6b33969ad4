"""Who computes what: whole groups where they fit, nothing twice, nothing left out, even loads."""

import random

import pytest

from grpo.split import split
from grpo.types import TokenSequence


def group(number: int, prompt: int, *own: int) -> list[TokenSequence]:
    return [TokenSequence((number,) * prompt, (7,) * length) for length in own]


def cost(sequences: list[TokenSequence], part: list[int]) -> int:
    """Distinct prompts once, completions without their last tokens."""
    prompts = {sequences[i].prompt_ids for i in part}
    return sum(map(len, prompts)) + sum(len(sequences[i].target_ids) - 1 for i in part)


def test_by_hand() -> None:
    two = [*group(1, 3, 4, 2), *group(2, 5, 3, 3)]  # 3 + 3 + 1 and 5 + 2 + 2 tokens
    assert split(two, 16) == [[0, 1, 2, 3]]
    assert split(two, 15) == [[2, 3], [0, 1]]
    assert split([], 10) == []


def test_a_group_above_the_budget_is_cut_into_pieces_that_repeat_the_prompt() -> None:
    large = group(1, 4, 7, 5, 3, 5)  # 4 + 6 + 4 + 2 + 4 = 20 tokens
    assert split(large, 12) == [[0, 2], [1, 3]]
    assert split(large, 9) == [[0], [1], [3], [2]]  # 4 + 6 alone is above it


def test_without_sharing_every_sequence_counts_its_prompt() -> None:
    two = group(1, 6, 3, 3)
    assert split(two, 12) == [[0, 1]]
    assert split(two, 12, share=False) == [[0], [1]]


def test_completions_of_one_prompt_lie_side_by_side_wherever_they_stand() -> None:
    a, b = group(1, 3, 2, 2), group(2, 3, 2, 2)
    assert split([a[0], b[0], a[1], b[1]], 100) == [[0, 2, 1, 3]]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_laws(seed: int, processes: int) -> None:
    rng = random.Random(seed)
    sequences = [
        s for g in range(rng.randint(1, 9))
        for s in group(g, rng.randint(1, 40), *(rng.randint(1, 60) for _ in range(rng.randint(1, 8))))
    ]  # fmt: skip
    parts = split(sequences, 150, processes)
    assert sorted(i for part in parts for i in part) == list(range(len(sequences)))
    assert all(cost(sequences, part) <= 150 or len(part) == 1 for part in parts)
    assert parts == split([TokenSequence(s.prompt_ids, (9,) * len(s.target_ids)) for s in sequences], 150, processes)
    if len(sequences) >= processes:
        assert len(parts) >= processes
    if len(sequences) > 4 * processes:
        loads = [sum(cost(sequences, part) for part in parts[p::processes]) for p in range(processes)]
        assert max(loads) <= 1.5 * sum(loads) / processes
