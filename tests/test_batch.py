import random

import pytest
import torch

from grpo.batch import TokenSequence, Trajectory, make_batch, micro_batches, pack, split_by_tokens

CPU = torch.device("cpu")
LONG, SHORT = TokenSequence((5, 6), (7, 8)), TokenSequence((9,), (4,))


def test_packing_by_hand() -> None:
    packed = pack([LONG, SHORT], CPU)
    assert packed.lengths == (4, 2)
    assert packed.token_ids_T.tolist() == [5, 6, 7, 8, 9, 4]
    assert packed.position_ids_T.tolist() == [0, 1, 2, 3, 0, 1]
    assert packed.predictor_N.tolist() == [1, 2, 4]
    assert packed.target_ids_N.tolist() == [7, 8, 4]
    assert packed.sequence_N.tolist() == [0, 0, 1]


def test_a_predictor_stands_just_before_its_target_in_the_same_sequence() -> None:
    rng = random.Random(0)
    sequences = [
        TokenSequence(tuple(rng.choices(range(99), k=p)), tuple(rng.choices(range(99), k=t)))
        for p, t in [(3, 4), (1, 1), (2, 0), (5, 2)]
    ]
    packed = pack(sequences, CPU)
    assert torch.equal(packed.token_ids_T[packed.predictor_N + 1], packed.target_ids_N)
    assert torch.equal(packed.position_ids_T[packed.predictor_N + 1], packed.position_ids_T[packed.predictor_N] + 1)
    assert [int((packed.sequence_N == s).sum()) for s in range(4)] == [4, 1, 0, 2]


def test_a_sequence_without_targets_keeps_indices_whole_numbers() -> None:
    packed = pack([TokenSequence((1, 2), ())], CPU)
    assert {t.dtype for t in (packed.predictor_N, packed.target_ids_N, packed.sequence_N)} == {torch.long}


def test_what_is_known_of_a_trajectory_is_spread_over_its_targets() -> None:
    batch = make_batch([Trajectory(LONG, (-0.5, -1.5), 2.0, 0.25), Trajectory(SHORT, (-3.0,), -1.0, 0.5)], CPU)
    assert batch.sampler_logprobs_N.tolist() == [-0.5, -1.5, -3.0]
    assert batch.advantages_N.tolist() == [2.0, 2.0, -1.0]
    assert batch.weights_N.tolist() == [0.25, 0.25, 0.5]
    assert batch.tokens.target_ids_N.tolist() == [7, 8, 4]


def test_splitting_by_hand() -> None:
    assert split_by_tokens([4, 7, 3, 6], 10) == [[1, 2], [3, 0]]
    assert split_by_tokens([12, 5, 5], 10) == [[0], [1, 2]]
    assert split_by_tokens([], 10) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_split_holds_every_sequence_once_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    lengths, budget = [rng.randint(1, 120) for _ in range(50)], 100
    groups = split_by_tokens(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(50))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= budget for group in groups)
    # No two groups would fit into one: a later group was opened because nothing earlier had room for its longest.
    firsts = [lengths[group[0]] for group in groups]
    assert all(sum(lengths[i] for i in groups[g]) + firsts[g + 1] > budget for g in range(len(groups) - 1))


def test_micro_batches_hold_all_trajectories() -> None:
    sequences = [TokenSequence((1,) * p, (2,) * t) for p, t in [(2, 3), (4, 4), (1, 1), (3, 6)]]
    trajectories = [Trajectory(s, (0.0,) * len(s.target_ids), float(i), 1.0) for i, s in enumerate(sequences)]
    batches = micro_batches(trajectories, 10, CPU)
    assert [batch.tokens.lengths for batch in batches] == [(9,), (8, 2), (5,)]
    assert [batch.advantages_N.unique().tolist() for batch in batches] == [[3.0], [1.0, 2.0], [0.0]]
