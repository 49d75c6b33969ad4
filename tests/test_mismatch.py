import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grpo.loss_settings import DapoLoss
from grpo.losses import make_loss
from grpo.losses.mismatch import CorrectionKind, correction_weights, mismatch, on_policy_enough

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
VECTORS = GOLDEN["vectors"]
FIXTURE = GOLDEN["fixture"]
SEQUENCE_N = torch.arange(4).repeat_interleave(torch.tensor(FIXTURE["lengths"]))


def flat(rows: list[list[float]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual.detach(), expected.double(), atol=tolerance, rtol=0)


TRAINER_N, SAMPLER_N = flat(FIXTURE["old_logprobs"]), flat(FIXTURE["rollout_logprobs"])


def test_figures() -> None:
    expected = VECTORS["metric.mismatch"]["expected"]
    found = mismatch(TRAINER_N, SAMPLER_N)
    assert found.k1 == pytest.approx(expected["k1"], abs=1e-9)
    assert found.k3 == pytest.approx(expected["k3"], abs=1e-9)
    assert found.mean_abs == pytest.approx(expected["mean_abs_dlogp"], abs=1e-9)
    assert found.chi2 == pytest.approx(expected["chi2_token"], abs=1e-9)
    assert found.max_abs == pytest.approx(1.0)  # sequence 2: -2.0 against -1.0


def test_equal_probabilities_have_no_mismatch() -> None:
    found = mismatch(TRAINER_N.float(), TRAINER_N.float())
    assert (found.k1, found.k3, found.mean_abs, found.max_abs, found.chi2) == (0, 0, 0, 0, 0)


CORRECTIONS: dict[str, tuple[CorrectionKind, float, float]] = {
    "token_tis_C2": ("token_truncate", 2.0, 0.0),
    "seq_tis_C2": ("sequence_truncate", 2.0, 0.0),
    "token_mask_icepop_0.5_5": ("token_mask", 5.0, 0.5),
    "seq_mask_C2": ("sequence_mask", 2.0, 0.0),
    "seq_mask_0.5_2": ("sequence_mask", 2.0, 0.5),
    "geo_rs_0.9_1.1_mask_only": ("geometric_mask", 1.1, 0.9),
}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_correction(name: str) -> None:
    vector = VECTORS["loss.rollout_correction"]
    expected = vector["expected"][name]
    mode, high, low = CORRECTIONS[name]
    weights_N = correction_weights(TRAINER_N, SAMPLER_N, SEQUENCE_N, mode, high, low)
    close(weights_N, flat(expected["weights"]))
    # The surrogate's own ratio is policy / trainer here: rho has already been accounted for.
    policy_N = flat(FIXTURE["logprobs"]).requires_grad_()
    advantages_N = torch.tensor(vector["inputs"]["advantages"], dtype=torch.float64)[SEQUENCE_N]
    surrogate_N = make_loss(DapoLoss(kind="dapo"))(policy_N, TRAINER_N, advantages_N, SEQUENCE_N).loss_N
    loss = (weights_N * surrogate_N).mean()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-9)
    close(torch.autograd.grad(loss, policy_N)[0], flat(expected["grad_logprobs"]), 1e-6)


def test_every_correction_of_the_vector_is_tested() -> None:
    assert set(CORRECTIONS) == set(VECTORS["loss.rollout_correction"]["expected"])


def test_corrections_have_no_gradient_and_survive_overflow() -> None:
    policy_N = torch.tensor([0.0, -1.0], requires_grad=True)
    weights_N = correction_weights(policy_N, torch.tensor([-500.0, -1.0]), torch.tensor([0, 1]), "token_truncate", 2.0)
    assert weights_N.tolist() == [2, 1]
    assert not weights_N.requires_grad
    masked_N = correction_weights(policy_N, torch.tensor([-500.0, -1.0]), torch.tensor([0, 1]), "sequence_mask", 2.0)
    assert masked_N.tolist() == [0, 1]


def test_off_policy_sequences_with_negative_advantage_are_dropped() -> None:
    vector = VECTORS["mask.off_policy_sequence_v32"]
    policy_N, sampler_N = flat(FIXTURE["logprobs"]), flat(FIXTURE["old_logprobs"])
    advantages_N = torch.tensor(vector["inputs"]["advantages"], dtype=torch.float64)[SEQUENCE_N]
    kept_N = on_policy_enough(policy_N, sampler_N, advantages_N, SEQUENCE_N, vector["options"]["delta"])
    assert kept_N.tolist() == torch.tensor(vector["expected"]["mask"])[SEQUENCE_N].bool().tolist()


def test_the_published_delta_tells_near_from_far() -> None:
    # drifts 0.4 and 0.6 nats a token; the third is as far off, but its advantage is positive
    policy_N = torch.tensor([-1.4, -1.6, -1.6])
    sampler_N, advantages_N = torch.full((3,), -1.0), torch.tensor([-1.0, -1.0, 1.0])
    kept_N = on_policy_enough(policy_N, sampler_N, advantages_N, torch.arange(3), 0.5)
    assert kept_N.tolist() == [True, False, True]
    assert math.isclose((sampler_N - policy_N)[1].item(), 0.6, abs_tol=1e-6)
