"""The gap between engine and learner is corrected once, whatever else moves."""

import math

import pytest
import torch

from grpo.batch import Trajectory, make_batch
from grpo.correction import NO_CORRECTION, Correction, correction_of
from grpo.correction_settings import OffPolicyMask, TokenMask, TokenTruncate
from grpo.grpo_stage import GrpoStage
from grpo.types import TokenSequence

CPU = torch.device("cpu")
LN2 = math.log(2)


def stage(**changes: object) -> GrpoStage:
    return GrpoStage.model_validate(
        {
            "kind": "grpo",
            "problems": {"path": "unread.jsonl"},
            "rewards": [{"name": "format"}],
            "steps": 1,
            "lr": 1e-3,
            "prompts_per_step": 2,
            "completions_per_prompt": 2,
            **changes,
        }
    )


BATCH = make_batch(
    [
        Trajectory(TokenSequence((1,), (2, 3)), (-1.0, -1.0), (-1.0 + LN2, -1.0 - 3 * LN2), -1.0, 0.5),
        Trajectory(TokenSequence((1,), (4,)), (-2.0,), (-2.0 + 2 * LN2,), 1.0, 0.5),
    ],
    CPU,
)
"""rho = anchor / engine is 2, 1/8 and 4."""


def test_without_a_correction_the_ratio_is_to_the_anchor_and_weights_are_one() -> None:
    policy_N = torch.zeros(3)
    assert torch.equal(NO_CORRECTION.anchor(policy_N, BATCH), BATCH.anchor_logprobs_N)
    weights_N, tally = NO_CORRECTION.weights(policy_N, BATCH)
    assert weights_N.tolist() == [1, 1, 1]
    assert tally.figures() == {}


def test_truncation_and_masks_bound_rho_of_the_anchor_and_not_of_the_policy() -> None:
    policy_N = torch.full((3,), -9.0)  # has moved far since; rho must not see it
    truncated_N, tally = Correction(TokenTruncate(kind="token_truncate", high=3.0)).weights(policy_N, BATCH)
    torch.testing.assert_close(truncated_N, torch.tensor([2.0, 1 / 8, 3.0]))
    assert tally.figures() == pytest.approx({"correction/weight_mean": 41 / 24, "correction/bounded": 1 / 3}, rel=1e-6)
    masked_N, _ = Correction(TokenMask(kind="token_mask", low=0.5, high=5.0)).weights(policy_N, BATCH)
    torch.testing.assert_close(masked_N, torch.tensor([2.0, 0.0, 4.0]))


def test_with_one_update_the_policy_itself_is_the_anchor() -> None:
    policy_N = torch.tensor([-1.0, -1.0, -2.0 + LN2], requires_grad=True)
    correction = correction_of(stage(correction={"kind": "token_truncate"}))
    anchor_N = correction.anchor(policy_N, BATCH)
    assert not anchor_N.requires_grad
    assert torch.equal(anchor_N, policy_N.detach())
    weights_N, _ = correction.weights(policy_N, BATCH)
    torch.testing.assert_close(weights_N, torch.tensor([1.0, 1.0, 2.0]))
    assert not correction_of(stage(correction={"kind": "token_truncate"}, epochs_per_step=2)).policy_is_anchor
    assert not correction_of(stage()).policy_is_anchor


def test_sequences_that_the_policy_has_left_behind_are_dropped_where_their_advantage_is_negative() -> None:
    policy_N = torch.tensor([-1.4, -1.8, -9.0])  # 0.6 nats a token below the engine, advantage -1; 7 below, advantage 1
    weights_N, tally = Correction(off_policy_mask=OffPolicyMask(delta=0.5)).weights(policy_N, BATCH)
    assert weights_N.tolist() == [0, 0, 1]
    assert tally.figures() == pytest.approx({"correction/off_policy": 2 / 3})
