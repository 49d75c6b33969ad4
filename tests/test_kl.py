import json
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from grpo.advantages import group_normalised, leave_one_out
from grpo.losses.kl import Estimator, kl_penalty, rewards_less_kl

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
VECTORS = GOLDEN["vectors"]
FIXTURE = GOLDEN["fixture"]
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance", "grad_tolerance"), [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1e-5)]
)


def flat(rows: list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=dtype)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach().double(), expected.double(), atol=tolerance, rtol=0)


def penalty_and_gradient(estimator: Estimator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    policy_N = flat(FIXTURE["logprobs"], dtype).requires_grad_()
    sampler_N, ref_N = flat(FIXTURE["old_logprobs"], dtype), flat(FIXTURE["ref_logprobs"], dtype)
    kl_N = kl_penalty(policy_N, sampler_N, ref_N, estimator)
    return kl_N, torch.autograd.grad(kl_N.sum(), policy_N)[0]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@PRECISIONS
def test_estimators(estimator: Estimator, dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    expected = VECTORS["kl.estimators"]["expected"]
    kl_N, gradient_N = penalty_and_gradient(estimator, dtype)
    close(kl_N, flat(expected["values"][estimator]), tolerance)
    close(gradient_N, flat(expected["grad_logprobs"][estimator]), grad_tolerance)


@PRECISIONS
def test_ratio_k3(dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    expected = VECTORS["kl.v32_unbiased"]["expected"]
    kl_N, gradient_N = penalty_and_gradient("ratio_k3", dtype)
    close(kl_N, flat(expected["values"]), tolerance)
    close(gradient_N, flat(expected["grad_logprobs"]), grad_tolerance)


class Categorical:
    """One action of three, enumerated: expectations are sums of probability * value, without sampling."""

    def __init__(self) -> None:
        inputs = VECTORS["kl.expected_gradients"]["inputs"]
        self.theta = torch.tensor(inputs["theta"], dtype=torch.float64, requires_grad=True)
        self.policy_N = self.theta.log_softmax(-1)
        self.ref_N = torch.tensor(inputs["ref_logits"], dtype=torch.float64).log_softmax(-1)
        self.old_N = torch.tensor(inputs["old_logits"], dtype=torch.float64).log_softmax(-1)

    def kl(self, estimator: Estimator, sampler_N: Tensor) -> Tensor:
        return kl_penalty(self.policy_N, sampler_N, self.ref_N, estimator)

    def gradient(self, value: Tensor) -> Tensor:
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0]

    def as_loss(self, estimator: Estimator, sampler_N: Tensor) -> Tensor:
        return self.gradient((sampler_N.exp() * self.kl(estimator, sampler_N)).sum())

    def in_reward(self, estimator: Estimator) -> Tensor:
        kl_N = self.kl(estimator, self.policy_N.detach()).detach()
        return self.gradient((self.policy_N.detach().exp() * kl_N * self.policy_N).sum())


def test_expected_values() -> None:
    expected = VECTORS["kl.expected_gradients"]["expected"]
    one = Categorical()
    probs_N = one.policy_N.exp()
    close(probs_N, torch.tensor(expected["probs"], dtype=torch.float64), 1e-9)
    for estimator in ("k1", "k2", "k3"):
        mean = (probs_N * one.kl(estimator, one.policy_N)).sum()
        assert mean.item() == pytest.approx(expected[f"E_{estimator}"], abs=1e-9)
    assert expected["E_k3"] == pytest.approx(expected["true_KL"], abs=1e-9)


def test_expected_gradients_on_policy() -> None:
    expected = VECTORS["kl.expected_gradients"]["expected"]
    one = Categorical()
    on_policy_N = one.policy_N.detach()
    reverse = (one.policy_N.exp() * (one.policy_N - one.ref_N)).sum()
    forward = (one.ref_N.exp() * (one.ref_N - one.policy_N)).sum()
    assert reverse.item() == pytest.approx(expected["true_KL"], abs=1e-9)
    found = {
        "true_grad": one.gradient(reverse),
        "forward_KL_grad": one.gradient(forward),
        "Egrad_k1_in_reward": Categorical().in_reward("k1"),
        "Egrad_k3_in_reward": Categorical().in_reward("k3"),
        "Egrad_k1_as_loss": Categorical().as_loss("k1", on_policy_N),
        "Egrad_k2_as_loss": Categorical().as_loss("k2", on_policy_N),
        "Egrad_k3_as_loss": Categorical().as_loss("k3", on_policy_N),
    }
    for name, gradient in found.items():
        close(gradient, torch.tensor(expected[name], dtype=torch.float64), 1e-6)
    close(found["Egrad_k1_in_reward"], found["true_grad"], 1e-12)
    close(found["Egrad_k2_as_loss"], found["true_grad"], 1e-12)
    close(found["Egrad_k3_as_loss"], found["forward_KL_grad"], 1e-12)


def test_expected_gradients_off_policy() -> None:
    expected = VECTORS["kl.expected_gradients"]["expected"]
    one = Categorical()
    close(one.old_N.exp(), torch.tensor(expected["old_probs"], dtype=torch.float64), 1e-9)
    unbiased = Categorical().as_loss("ratio_k3", one.old_N)
    biased = Categorical().as_loss("k3", one.old_N)
    close(unbiased, torch.tensor(expected["Egrad_IS_k3_offpolicy"], dtype=torch.float64), 1e-6)
    close(biased, torch.tensor(expected["Egrad_k3_as_loss_offpolicy_noIS"], dtype=torch.float64), 1e-6)


def test_kl_in_reward() -> None:
    vector = VECTORS["reward.kl_in_reward.k1_sequence"]
    expected = vector["expected"]
    sampler_N, ref_N = flat(FIXTURE["old_logprobs"]), flat(FIXTURE["ref_logprobs"])
    sequence_N = torch.arange(4).repeat_interleave(torch.tensor(FIXTURE["lengths"]))
    kl_N = kl_penalty(sampler_N, sampler_N, ref_N, "k1")
    rewards_B = torch.tensor(FIXTURE["rewards"], dtype=torch.float64)
    less_B = rewards_less_kl(rewards_B, kl_N, sequence_N, vector["options"]["beta"])
    close(less_B, torch.tensor(expected["rewards"], dtype=torch.float64), 1e-9)
    close(leave_one_out(less_B[None])[0], torch.tensor(expected["rloo_advantages"], dtype=torch.float64), 1e-9)
    grpo_G = group_normalised(less_B[None], ddof=1, epsilon=1e-6)[0]
    close(grpo_G, torch.tensor(expected["grpo_advantages"], dtype=torch.float64), 1e-9)


def test_kl_in_reward_has_no_gradient() -> None:
    kl_N = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not rewards_less_kl(torch.tensor([1.0, 0.0]), kl_N, torch.tensor([0, 1]), 0.5).requires_grad


def test_kl_leaves_an_unscorable_reward_unscorable() -> None:
    rewards_B = torch.tensor([math.nan, 1.0])
    less_B = rewards_less_kl(rewards_B, torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]), 0.5)
    assert less_B[0].isnan()
    assert less_B[1] == -2


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_no_distance_no_penalty(estimator: Estimator) -> None:
    logprobs_N = torch.tensor([-0.1, -5.0])
    assert kl_penalty(logprobs_N, logprobs_N, logprobs_N, estimator).tolist() == [0, 0]


@pytest.mark.parametrize("estimator", get_args(Estimator))
@pytest.mark.parametrize("distance", [-200.0, 200.0])
def test_absurd_distances_stay_finite(estimator: Estimator, distance: float) -> None:
    policy_N = torch.tensor([-300.0 + distance], requires_grad=True)
    kl_N = kl_penalty(policy_N, torch.tensor([-300.0]), torch.tensor([-300.0]), estimator)
    assert kl_N.isfinite().all()
    assert torch.autograd.grad(kl_N.sum(), policy_N)[0].isfinite().all()
