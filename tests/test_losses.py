"""Every loss against worked numbers and against the laws that all of them obey. N: tokens."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from grpo.loss_settings import (
    Aggregation,
    CispoLoss,
    DapoLoss,
    DrGrpoLoss,
    GmpoLoss,
    GrpoLoss,
    GspoLoss,
    LossSettings,
    SapoLoss,
)
from grpo.losses import LOSSES, Loss, make_loss
from grpo.losses.aggregation import sequence_weights
from grpo.losses.kl import kl_penalty

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
VECTORS = GOLDEN["vectors"]
FIXTURE = GOLDEN["fixture"]
LENGTHS = FIXTURE["lengths"]
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance", "grad_tolerance"), [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1e-5)]
)
EVERY_LOSS: list[LossSettings] = [
    GrpoLoss(),
    GrpoLoss(dual_clip=3.0, delta=4.0),
    DrGrpoLoss(kind="dr_grpo"),
    DapoLoss(kind="dapo"),
    GspoLoss(kind="gspo"),
    CispoLoss(kind="cispo"),
    GmpoLoss(kind="gmpo"),
    SapoLoss(kind="sapo"),
]


def flat(rows: list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=dtype)


def sequence_of(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


class Fixture:
    """The four sequences of the vectors' fixture, as flat tensors of one dtype."""

    def __init__(self, vector: dict[str, Any], dtype: torch.dtype) -> None:
        self.sequence_N = sequence_of(LENGTHS)
        self.policy_N = flat(FIXTURE["logprobs"], dtype).requires_grad_()
        self.sampler_N = flat(FIXTURE["old_logprobs"], dtype)
        self.ref_N = flat(FIXTURE["ref_logprobs"], dtype)
        self.advantages_N = torch.tensor(vector["inputs"]["advantages"], dtype=dtype)[self.sequence_N]

    def run(self, settings: LossSettings) -> tuple[Tensor, Tensor]:
        token = make_loss(settings)(self.policy_N, self.sampler_N, self.advantages_N, self.sequence_N)
        return token.loss_N, token.clipped_N

    def weights_N(self, mode: Aggregation, max_length: int = 8) -> Tensor:
        trained_B = torch.ones(len(LENGTHS), dtype=torch.bool)
        weights_B = sequence_weights(torch.tensor(LENGTHS), trained_B, mode, max_length)
        return weights_B.to(self.policy_N.dtype)[self.sequence_N]

    def gradient(self, loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, self.policy_N, retain_graph=True)[0]


def close(actual: Tensor, expected: Tensor | float, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double(), expected, atol=tolerance, rtol=tolerance)


def removed_gradient(vector: dict[str, Any]) -> list[bool]:
    return [gradient == 0 for row in vector["expected"]["dldlogp_per_token"] for gradient in row]


# --- worked numbers ---------------------------------------------------------------------------------------------------

CLIPPED = {
    "loss.pg_clip.ppo_clip_0.2": [GrpoLoss(), DrGrpoLoss(kind="dr_grpo")],
    "loss.pg_clip.dapo_0.2_0.28": [DapoLoss(kind="dapo"), GrpoLoss(clip_high=0.28)],
    "loss.pg_clip.r1_eps10": [GrpoLoss(clip_low=10.0, clip_high=10.0)],
    "loss.pg_clip.dual_clip_c3": [GrpoLoss(dual_clip=3.0)],
    "loss.pg_clip.intellect2_delta4": [GrpoLoss(delta=4.0)],
}


@pytest.mark.parametrize("name", CLIPPED)
@PRECISIONS
def test_clipped_surrogate(name: str, dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS[name]
    expected = vector["expected"]
    for settings in CLIPPED[name]:
        fixture = Fixture(vector, dtype)
        loss_N, clipped_N = fixture.run(settings)
        close(loss_N, flat(expected["per_token_loss"]), tolerance)
        close(fixture.gradient(loss_N.sum()), flat(expected["dldlogp_per_token"]), tolerance)
        assert clipped_N.tolist() == removed_gradient(vector)
        for mode, aggregated in expected["aggregated"].items():
            factor, ours = (4, "seq-mean-token-sum-norm") if mode == "token-sum-norm-noB" else (1, mode)
            loss = factor * (fixture.weights_N(ours) * loss_N).sum()
            close(loss, aggregated["loss"], tolerance)
            close(fixture.gradient(loss), flat(aggregated["grad_logprobs"]), grad_tolerance)


def test_the_vectors_cover_every_aggregation() -> None:
    assert set(get_args(Aggregation)) < set(VECTORS["loss.pg_clip.r1_eps10"]["expected"]["aggregated"])


WITH_KL = {
    "loss.grpo_full.k3": (GrpoLoss(), "k3"),
    "loss.grpo_full.r1_k3_0.001": (GrpoLoss(clip_low=10.0, clip_high=10.0), "k3"),
    "loss.grpo_full.v32_isk3": (GrpoLoss(), "ratio_k3"),
}


@pytest.mark.parametrize("name", WITH_KL)
@PRECISIONS
def test_grpo_with_kl(name: str, dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS[name]
    settings, estimator = WITH_KL[name]
    fixture = Fixture(vector, dtype)
    loss_N, _ = fixture.run(settings)
    kl_N = kl_penalty(fixture.policy_N, fixture.sampler_N, fixture.ref_N, estimator)
    loss = (fixture.weights_N("seq-mean-token-mean") * (loss_N + vector["options"]["beta"] * kl_N)).sum()
    close(loss, vector["expected"]["loss"], tolerance)
    close(fixture.gradient(loss), flat(vector["expected"]["grad_logprobs"]), grad_tolerance)


def test_on_policy_gradient_is_the_papers_coefficient() -> None:
    vector = VECTORS["loss.grpo_onpolicy_gradcoef"]
    fixture = Fixture(vector, torch.float64)
    fixture.sampler_N = fixture.policy_N.detach()
    loss_N, _ = fixture.run(GrpoLoss())
    kl_N = kl_penalty(fixture.policy_N, fixture.sampler_N, fixture.ref_N, "k3")
    loss = (fixture.weights_N("seq-mean-token-mean") * (loss_N + vector["options"]["beta"] * kl_N)).sum()
    close(fixture.gradient(loss), flat(vector["expected"]["grad_logprobs"]), 1e-6)


BY_SEQUENCE = {
    "loss.gspo.paper": GspoLoss(kind="gspo"),
    "loss.gspo.wide": GspoLoss(kind="gspo", clip_low=0.2, clip_high=0.2),
    "loss.gmpo": GmpoLoss(kind="gmpo"),
}


@pytest.mark.parametrize("name", BY_SEQUENCE)
@PRECISIONS
def test_sequence_losses(name: str, dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS[name]
    fixture = Fixture(vector, dtype)
    loss_N, clipped_N = fixture.run(BY_SEQUENCE[name])
    per_sequence_S = torch.tensor(vector["expected"]["per_seq_loss"], dtype=torch.float64)
    close(loss_N, per_sequence_S[fixture.sequence_N], tolerance)
    loss = (fixture.weights_N("seq-mean-token-mean") * loss_N).sum()
    close(loss, vector["expected"]["loss"], tolerance)
    gradient_N = fixture.gradient(loss)
    close(gradient_N, flat(vector["expected"]["grad_logprobs"]), grad_tolerance)
    assert clipped_N.tolist() == (gradient_N == 0).tolist()


@PRECISIONS
def test_luspo_is_gspo_summed_over_tokens(dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS["loss.luspo"]
    settings = GspoLoss(kind="gspo", clip_low=0.2, clip_high=0.2, aggregation="seq-mean-token-sum")
    fixture = Fixture(vector, dtype)
    loss_N, _ = fixture.run(settings)
    loss = (fixture.weights_N(settings.aggregation) * loss_N).sum()
    close(loss, vector["expected"]["loss"], tolerance)
    close(fixture.gradient(loss), flat(vector["expected"]["grad_logprobs"]), grad_tolerance)


CISPO = {
    "loss.cispo.paper_no_lower_high0.28": CispoLoss(kind="cispo", clip_high=0.28),
    "loss.cispo.verl_two_sided_0.2": CispoLoss(kind="cispo", clip_low=0.2, clip_high=0.2),
    "loss.cispo.trl_scalerl_max5": CispoLoss(kind="cispo"),
    "loss.cispo.trl_max1.28": CispoLoss(kind="cispo", clip_high=0.28),
}


@pytest.mark.parametrize("name", CISPO)
@PRECISIONS
def test_cispo(name: str, dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS[name]
    fixture = Fixture(vector, dtype)
    loss_N, clipped_N = fixture.run(CISPO[name])
    close(loss_N, flat(vector["expected"]["per_token_loss"]), tolerance)
    loss = (fixture.weights_N("token-mean") * loss_N).sum()
    close(loss, vector["expected"]["loss"], tolerance)
    close(fixture.gradient(loss), flat(vector["expected"]["grad_logprobs"]), grad_tolerance)
    close(-fixture.gradient(loss_N.sum()) / fixture.advantages_N, flat(vector["expected"]["weights"]), tolerance)
    ratio_N = (flat(FIXTURE["logprobs"]) - flat(FIXTURE["old_logprobs"])).exp()
    changed_N = (ratio_N - flat(vector["expected"]["weights"])).abs() > 1e-6
    assert clipped_N.tolist() == changed_N.tolist()


@PRECISIONS
def test_sapo(dtype: torch.dtype, tolerance: float, grad_tolerance: float) -> None:
    vector = VECTORS["loss.sapo"]
    fixture = Fixture(vector, dtype)
    loss_N, clipped_N = fixture.run(SapoLoss(kind="sapo"))
    close(loss_N, flat(vector["expected"]["per_token_loss"]), tolerance)
    loss = (fixture.weights_N("seq-mean-token-mean") * loss_N).sum()
    close(loss, vector["expected"]["loss"], tolerance)
    close(fixture.gradient(loss), flat(vector["expected"]["grad_logprobs"]), grad_tolerance)
    assert not clipped_N.any()


# --- laws -------------------------------------------------------------------------------------------------------------


def a_batch(lengths: list[int], spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(len(lengths))
    sequence_N = sequence_of(lengths)
    sampler_N = -torch.rand(sequence_N.numel(), generator=random, dtype=torch.float64) * 3
    drift_N = torch.randn(sequence_N.numel(), generator=random, dtype=torch.float64) * spread
    advantages_N = torch.randn(len(lengths), generator=random, dtype=torch.float64)[sequence_N]
    return sampler_N + drift_N, sampler_N, advantages_N, sequence_N


def loss_and_gradient(loss: Loss, batch: tuple[Tensor, ...], weights_N: Tensor) -> tuple[Tensor, Tensor]:
    policy_N = batch[0].clone().requires_grad_()
    total = (weights_N * loss(policy_N, *batch[1:]).loss_N).sum()
    return total.detach(), torch.autograd.grad(total, policy_N)[0]


def weights_of(lengths: list[int], settings: LossSettings) -> Tensor:
    trained_B = torch.ones(len(lengths), dtype=torch.bool)
    weights_B = sequence_weights(torch.tensor(lengths), trained_B, settings.aggregation, 16)
    return weights_B.repeat_interleave(torch.tensor(lengths))


each_loss: Callable[..., Any] = pytest.mark.parametrize("settings", EVERY_LOSS, ids=repr)


def test_the_laws_are_tested_on_every_loss() -> None:
    assert {settings.kind for settings in EVERY_LOSS} == set(LOSSES)


@each_loss
def test_on_policy_every_loss_is_plain_policy_gradient(settings: LossSettings) -> None:
    lengths = [3, 1, 5, 2]
    policy_N, _, advantages_N, sequence_N = a_batch(lengths, 0.0)
    weights_N = weights_of(lengths, settings)
    batch = policy_N, policy_N, advantages_N, sequence_N
    _, gradient_N = loss_and_gradient(make_loss(settings), batch, weights_N)
    close(gradient_N, -weights_N * advantages_N, 1e-12)
    assert not make_loss(settings)(*batch).clipped_N.any()


@each_loss
def test_a_split_into_micro_batches_changes_nothing(settings: LossSettings) -> None:
    lengths = [3, 1, 5, 2, 4]
    batch = a_batch(lengths, 0.5)
    weights_N = weights_of(lengths, settings)
    loss, gradient_N = loss_and_gradient(make_loss(settings), batch, weights_N)
    parts = []
    for start, end in pairwise([0, 4, 9, 15]):  # sequences 0-1, 2, 3-4
        part = [tensor[start:end] for tensor in batch]
        part[3] = part[3] - part[3][0]
        parts.append(loss_and_gradient(make_loss(settings), tuple(part), weights_N[start:end]))
    close(sum(part[0] for part in parts), loss, 1e-12)
    close(torch.cat([part[1] for part in parts]), gradient_N, 1e-12)


@each_loss
def test_the_order_of_sequences_changes_nothing(settings: LossSettings) -> None:
    lengths = [3, 1, 5, 2, 4]
    policy_N, sampler_N, advantages_N, sequence_N = batch = a_batch(lengths, 0.5)
    weights_N = weights_of(lengths, settings)
    loss, gradient_N = loss_and_gradient(make_loss(settings), batch, weights_N)
    order_N = torch.cat([(sequence_N == s).nonzero().flatten() for s in (4, 0, 3, 1, 2)])
    renumbered_N = torch.tensor([1, 3, 4, 2, 0])[sequence_N[order_N]]
    shuffled = policy_N[order_N], sampler_N[order_N], advantages_N[order_N], renumbered_N
    loss_2, gradient_2_N = loss_and_gradient(make_loss(settings), shuffled, weights_N[order_N])
    close(loss_2, loss, 1e-12)
    close(gradient_2_N, gradient_N[order_N], 1e-12)


@each_loss
def test_a_zero_advantage_has_no_loss_no_gradient_and_no_clip(settings: LossSettings) -> None:
    policy_N, sampler_N, advantages_N, sequence_N = a_batch([3, 2], 2.0)
    batch = policy_N, sampler_N, torch.zeros_like(advantages_N), sequence_N
    loss, gradient_N = loss_and_gradient(make_loss(settings), batch, torch.ones_like(policy_N))
    assert loss == 0
    assert (gradient_N == 0).all()
    if settings.kind != "cispo":  # it marks weights that changed, whatever they multiply
        assert not make_loss(settings)(*batch).clipped_N.any()


@each_loss
@pytest.mark.parametrize("log_ratio", [-200.0, 200.0])
def test_absurd_ratios_leave_finite_gradients(settings: LossSettings, log_ratio: float) -> None:
    sampler_N = torch.tensor([-200.0, -200.0, -1.0])
    policy_N = sampler_N + torch.tensor([log_ratio, log_ratio, 0.0])
    batch = policy_N, sampler_N, torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0, 1, 2])
    loss, gradient_N = loss_and_gradient(make_loss(settings), batch, torch.ones(3))
    assert loss.isfinite()
    assert gradient_N.isfinite().all()
    assert gradient_N[2] == -1


def test_delta_bounds_the_ratio_above_whatever_the_other_clips() -> None:
    # ratio 8 with R1's clip 10: bound 4 on both signs, and below a dual clip of 6
    log_ratio_N = torch.full((2,), math.log(8.0), dtype=torch.float64)
    batch = log_ratio_N, torch.zeros_like(log_ratio_N), torch.tensor([1.0, -1.0]).double(), torch.tensor([0, 1])
    token = make_loss(GrpoLoss(clip_low=10.0, clip_high=10.0, dual_clip=6.0, delta=4.0))(*batch)
    close(token.loss_N, torch.tensor([-4.0, 4.0]).double(), 1e-12)
    assert token.clipped_N.tolist() == [True, True]


def test_the_ratio_at_a_bound_keeps_its_gradient_and_past_it_loses_it() -> None:
    # A > 0, clip_high 0.5: ratios 1.4 and 1.6 lie on either side of 1.5
    log_ratio_N = torch.tensor([math.log(1.4), math.log(1.6)], dtype=torch.float64)
    batch = log_ratio_N, torch.zeros_like(log_ratio_N), torch.ones(2, dtype=torch.float64), torch.tensor([0, 1])
    loss = make_loss(GrpoLoss(clip_high=0.5))
    close(loss(*batch).loss_N, torch.tensor([-1.4, -1.5], dtype=torch.float64), 1e-12)
    close(loss_and_gradient(loss, batch, torch.ones(2))[1], torch.tensor([-1.4, 0.0], dtype=torch.float64), 1e-12)
    on_policy = torch.zeros(1, dtype=torch.float64)
    still = make_loss(GrpoLoss(clip_low=0.0, clip_high=0.0))
    _, gradient_N = loss_and_gradient(still, (on_policy, on_policy, on_policy + 2, torch.tensor([0])), torch.ones(1))
    assert gradient_N.tolist() == [-2.0]
