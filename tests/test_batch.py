import pytest
import torch

from grpo.batch import Trajectory, make_batch, micro_batches, pack
from grpo.types import PackedGroup, TokenSequence

CPU = torch.device("cpu")
LONG, SHORT, OTHER = TokenSequence((5, 6), (7, 8)), TokenSequence((9,), (4,)), TokenSequence((5, 6), (3, 4, 2))


def test_packing_by_hand() -> None:
    packed = pack([LONG, OTHER, SHORT], CPU)
    assert packed.groups == (PackedGroup(2, (1, 2)), PackedGroup(1, (0,)))
    assert packed.token_ids_T.tolist() == [5, 6, 7, 3, 4, 9]
    assert packed.position_ids_T.tolist() == [0, 1, 2, 2, 3, 0]
    assert packed.predictor_N.tolist() == [1, 2, 1, 3, 4, 5]
    assert packed.target_ids_N.tolist() == [7, 8, 3, 4, 2, 4]
    assert packed.sequence_N.tolist() == [0, 0, 1, 1, 1, 2]
    assert packed.sequence_tokens == 4 + 5 + 2


def test_only_neighbours_share_a_prompt_so_that_targets_keep_their_order() -> None:
    packed = pack([LONG, SHORT, OTHER], CPU)
    assert packed.groups == (PackedGroup(2, (1,)), PackedGroup(1, (0,)), PackedGroup(2, (2,)))
    assert packed.target_ids_N.tolist() == [7, 8, 4, 3, 4, 2]


@pytest.mark.parametrize("own", [(4,), (1, 1), (2, 0, 5)])
def test_a_predictor_is_the_token_before_its_target_in_the_same_sequence(own: tuple[int, ...]) -> None:
    sequences = [TokenSequence((90, 91, 92), tuple(range(10 * i, 10 * i + n))) for i, n in enumerate(own)]
    packed = pack(sequences, CPU)
    before = [token for s in sequences for token in (s.prompt_ids + s.target_ids)[2:-1][: len(s.target_ids)]]
    assert packed.token_ids_T[packed.predictor_N].tolist() == before
    assert [int((packed.sequence_N == s).sum()) for s in range(len(own))] == list(own)


def test_a_sequence_without_targets_keeps_indices_whole_numbers() -> None:
    packed = pack([TokenSequence((1, 2), ())], CPU)
    assert {t.dtype for t in (packed.predictor_N, packed.target_ids_N, packed.sequence_N)} == {torch.long}


def test_what_is_known_of_a_trajectory_is_spread_over_its_targets() -> None:
    trajectories = [
        Trajectory(LONG, (-0.5, -1.5), (-0.6, -1.4), 2.0, 0.25),
        Trajectory(SHORT, (-3.0,), (-2.9,), -1.0, 0.5),
    ]
    batch = make_batch(trajectories, CPU)
    assert batch.sampler_logprobs_N.tolist() == [-0.5, -1.5, -3.0]
    torch.testing.assert_close(batch.anchor_logprobs_N, torch.tensor([-0.6, -1.4, -2.9]))
    assert batch.advantages_N.tolist() == [2.0, 2.0, -1.0]
    assert batch.weights_N.tolist() == [0.25, 0.25, 0.5]
    assert batch.tokens.target_ids_N.tolist() == [7, 8, 4]


def test_micro_batches_hold_whole_groups() -> None:
    sequences = [TokenSequence((p,) * p, (2,) * t) for p, t in [(2, 3), (4, 4), (2, 1), (3, 6)]]
    trajectories = [
        Trajectory(s, (zeros := (0.0,) * len(s.target_ids)), zeros, float(i), 1.0) for i, s in enumerate(sequences)
    ]
    batches = micro_batches(trajectories, 12, CPU)
    assert [batch.tokens.groups for batch in batches] == [
        (PackedGroup(2, (2, 0)), PackedGroup(4, (3,))),  # 4 + 7 tokens
        (PackedGroup(3, (5,)),),
    ]
    assert [batch.advantages_N.unique().tolist() for batch in batches] == [[0.0, 1.0, 2.0], [3.0]]
