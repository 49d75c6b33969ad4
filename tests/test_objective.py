"""The losses of whole micro-batches, compared with plain loops over sequences that are never packed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo.batch import Trajectory, make_batch, micro_batches, pack
from grpo.forward import prepare_packing
from grpo.loss_settings import GrpoLoss, KlSettings, LossSettings
from grpo.losses import LOSSES, make_loss
from grpo.objective import CrossEntropy, PolicyGradient
from grpo.policy import Policy, make_reference
from grpo.types import TokenSequence

CPU = torch.device("cpu")
TEMPERATURE, BETA, BONUS, CLIP = 0.7, 0.3, 0.05, 0.2
TRAJECTORIES = [
    Trajectory(
        TokenSequence((5, 6, 7), (8, 9, 10, 11)), (-2.0, -0.5, -6.0, -3.0), (-2.0, -0.5, -6.0, -3.0), 1.5, 1 / 8
    ),
    Trajectory(TokenSequence((12,), (13, 14)), (-1.0, -4.0), (-1.0, -4.0), -0.5, 1 / 4),
]
SHARED = [*TRAJECTORIES, Trajectory(TokenSequence((5, 6, 7), (9, 3)), (-3.0, -2.0), (-3.0, -2.0), -1.0, 1 / 6)]
"""With another completion of the first prompt."""


@pytest.fixture
def models(tiny_model: Callable[..., PreTrainedModel]) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy and another model as its reference."""
    return tiny_model("qwen3"), tiny_model("qwen3", seed=1)


def objective(reference: nn.Module | None, bonus: float = BONUS, **kl: Any) -> PolicyGradient:
    lent = make_reference(Policy(reference, None, "")) if reference else None  # type: ignore[arg-type]  # reads no text
    surrogate = make_loss(GrpoLoss(clip_low=CLIP, clip_high=CLIP))
    return PolicyGradient(surrogate, TEMPERATURE, KlSettings.model_validate({"beta": BETA, **kl}), lent, bonus)


def plain_logits(model: nn.Module, trajectory: Trajectory) -> Tensor:
    """(N, V) of one sequence by itself, at the temperature."""
    ids = torch.tensor([[*trajectory.tokens.prompt_ids, *trajectory.tokens.target_ids]])
    first = len(trajectory.tokens.prompt_ids) - 1
    return model(input_ids=ids).logits[0, first:-1] / TEMPERATURE


def plain_loss(model: nn.Module, reference: nn.Module) -> Tensor:
    """GRPO's formula, token by token (arXiv 2402.03300, eq. 3 and 4), less the bonus times the entropy."""
    total = torch.zeros(())
    for trajectory in SHARED:
        policy_NV = plain_logits(model, trajectory).log_softmax(-1)
        with torch.no_grad():
            ref_NV = plain_logits(reference, trajectory).log_softmax(-1)
        for n, token in enumerate(trajectory.tokens.target_ids):
            ratio = (policy_NV[n, token] - trajectory.sampler_logprobs[n]).exp()
            advantage = trajectory.advantage
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            apart = ref_NV[n, token] - policy_NV[n, token]
            k3 = apart.exp() - apart - 1
            entropy = -(policy_NV[n].exp() * policy_NV[n]).sum()
            total = total + trajectory.weight * (-surrogate + BETA * k3 - BONUS * entropy)
    return total


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("budget", [1, 9, 1000])
def test_the_loss_is_grpo_s_formula_in_value_and_gradient(
    models: tuple[PreTrainedModel, PreTrainedModel], byte_tokenizer: Any, budget: int
) -> None:
    model, reference = models
    expected = plain_loss(model, reference)
    expected_gradient = gradient(model, expected)
    prepare_packing(model, byte_tokenizer)
    prepare_packing(reference, byte_tokenizer)
    losses = [objective(reference)(model, batch)[0] for batch in micro_batches(SHARED, budget, CPU)]
    loss = torch.stack(losses).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert (gradient(model, loss) - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_sequence_with_advantage_0_moves_nothing_without_penalties(
    models: tuple[PreTrainedModel, PreTrainedModel], kind: str
) -> None:
    """So a step may leave it out (`experience.minibatches`)."""
    model, _ = models
    silent = Trajectory(TokenSequence((1, 2), (3, 4, 5)), (-1.0, -9.0, -0.1), (-1.0, -9.0, -0.1), 0.0, 1 / 6)
    settings = TypeAdapter[Any](LossSettings).validate_python({"kind": kind})
    alone = replace(objective(None, bonus=0.0), surrogate=make_loss(settings))
    with_it, without = (alone(model, make_batch(t, CPU))[0] for t in ([*TRAJECTORIES, silent], TRAJECTORIES))
    torch.testing.assert_close(with_it, without)
    ours, theirs = gradient(model, with_it), gradient(model, without)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert not gradient(model, alone(model, make_batch([silent], CPU))[0]).any()


def test_figures_by_a_plain_computation(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    model, reference = models
    _, tally = objective(reference)(model, make_batch(TRAJECTORIES, CPU))
    policy, ref, sampler, entropy = [], [], [], []
    likeliest: list[float] = []
    for trajectory in TRAJECTORIES:
        rows = torch.arange(len(trajectory.tokens.target_ids)), torch.tensor(trajectory.tokens.target_ids)
        policy_NV = plain_logits(model, trajectory).log_softmax(-1)
        policy.append(policy_NV[rows])
        ref.append(plain_logits(reference, trajectory).log_softmax(-1)[rows])
        likeliest += policy_NV.exp().amax(-1).tolist()
        entropy.append(-(policy_NV.exp() * policy_NV).sum(-1))
        sampler.append(torch.tensor(trajectory.sampler_logprobs))
    moved_N = torch.cat(policy) - torch.cat(sampler)
    gap_N = moved_N.abs()
    apart_N = torch.cat(ref) - torch.cat(policy)
    expected = {
        "tokens": 10.0,
        "likeliest": torch.tensor(likeliest).mean().item(),
        "sampler/mismatch_mean": gap_N.mean().item(),
        "sampler/mismatch_max": gap_N.max().item(),
        "sampler/kl": (moved_N.exp() - 1 - moved_N).mean().item(),
        "sampler/chi2": ((2 * moved_N).exp() - 1).mean().item(),
        "entropy": torch.cat(entropy).mean().item(),
        "kl": (apart_N.exp() - apart_N - 1).mean().item(),
    }
    figures = tally.figures()
    clipped = figures.pop("ratio/clipped")
    assert figures == pytest.approx(expected, rel=1e-4)
    ratio_N = (torch.cat(policy) - torch.cat(sampler)).exp()
    advantages_N = torch.tensor([1.5] * 4 + [-0.5] * 2)
    lost_N = torch.where(advantages_N > 0, ratio_N > 1 + CLIP, ratio_N < 1 - CLIP)
    assert clipped == pytest.approx(lost_N.float().mean().item())


def test_the_ratio_is_1_where_the_policy_sampled(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Then the loss is the weighted sum of -A, and no figure sees a difference."""
    model, _ = models
    own = []
    for t in TRAJECTORIES:
        rows = torch.arange(len(t.tokens.target_ids)), torch.tensor(t.tokens.target_ids)
        logprobs = plain_logits(model, t).log_softmax(-1)[rows].tolist()
        own.append(replace(t, sampler_logprobs=tuple(logprobs), anchor_logprobs=tuple(logprobs)))
    loss, tally = objective(model, bonus=0.0)(model, make_batch(own, CPU))
    assert loss.item() == pytest.approx(-(4 * 1.5 / 8 + 2 * -0.5 / 4), abs=1e-5)
    assert tally.figures()["sampler/mismatch_max"] < 1e-4
    assert tally.figures()["ratio/clipped"] == 0
    assert tally.figures()["kl"] == pytest.approx(0, abs=1e-6)


def test_the_entropy_bonus_raises_entropy(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    model, _ = models
    batch = make_batch([replace(t, advantage=0.0) for t in TRAJECTORIES], CPU)
    bonus = objective(None, bonus=1.0)
    loss, before = bonus(model, batch)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert loss.item() < 0
    assert bonus(model, batch)[1].figures()["entropy"] > before.figures()["entropy"]


def test_a_penalty_in_the_reward_is_not_in_the_loss(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    model, reference = models
    batch = make_batch(TRAJECTORIES, CPU)
    loss, tally = objective(reference, place="reward")(model, batch)
    assert loss.item() == objective(None)(model, batch)[0].item()
    assert "kl" not in tally.figures()


def test_no_gradient_reaches_the_reference(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    model, reference = models
    pieces = objective(reference)
    pieces(model, make_batch(TRAJECTORIES, CPU))[0].backward()
    assert pieces.reference is not None
    with pieces.reference.model() as ref:
        assert all(p.grad is None and not p.requires_grad for p in ref.parameters())


# --- cross-entropy ----------------------------------------------------------------------------------------------------


def test_cross_entropy_is_transformers_own_loss_on_one_example(
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    model, _ = models
    sequence = TRAJECTORIES[0].tokens
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.target_ids]])
    labels = torch.tensor([[*[-100] * len(sequence.prompt_ids), *sequence.target_ids]])
    expected = model(input_ids=ids, labels=labels).loss
    loss, tally = CrossEntropy(len(sequence.target_ids))(model, pack([sequence], CPU))
    torch.testing.assert_close(loss, expected)
    assert tally.figures() == {"tokens": 7}


def test_cross_entropy_is_the_mean_over_the_tokens_of_a_step(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Of sequences of 4 and 2 targets: neither the mean of their means, nor changed by packing or splitting."""
    model, _ = models
    alone = [CrossEntropy(1)(model, pack([t.tokens], CPU))[0].item() for t in TRAJECTORIES]
    together = CrossEntropy(6)(model, pack([t.tokens for t in TRAJECTORIES], CPU))[0]
    assert together.item() == pytest.approx(sum(alone) / 6, rel=1e-5)
