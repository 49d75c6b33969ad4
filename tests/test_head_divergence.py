"""KL between two models' predictions: worked by hand, and equal in value and gradient to whole logits."""

import math

import pytest
import torch
from torch import Tensor, nn

from grpo.kernels import head_logprobs
from grpo.kernels.head_divergence import States, divergence_scores
from grpo.kernels.head_logprobs import LogitRules


def states(*probabilities: tuple[float, ...]) -> States:
    return States(torch.tensor(probabilities, dtype=torch.float64).log(), nn.Identity(), LogitRules())


def test_by_hand() -> None:
    """1/2 ln(1/2 : 3/4) + 1/2 ln(1/2 : 1/4) = 1/2 ln 4/3; a model has no distance from itself."""
    student, teacher = states((0.75, 0.25), (0.1, 0.9)), states((0.5, 0.5), (0.1, 0.9))
    logprobs_N, kl_N = divergence_scores(student, teacher, torch.tensor([1, 0]))
    torch.testing.assert_close(kl_N, torch.tensor([0.5 * math.log(4 / 3), 0.0], dtype=torch.float64))
    torch.testing.assert_close(logprobs_N, torch.tensor([0.25, 0.1], dtype=torch.float64).log())


@pytest.mark.parametrize("tile", [1, 1 << 20])
def test_parts_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token at a time and all at once, for students and teachers of unlike widths and caps."""
    monkeypatch.setattr(head_logprobs, "TILE", tile)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden_ND, weight_VD, taught_ND, head_VD = random(9, 6), random(11, 6), random(9, 4), random(11, 4)
    targets_N = torch.randint(11, (9,), generator=generator)
    own = [tensor.clone().requires_grad_() for tensor in (hidden_ND, weight_VD)]
    student = States(own[0], lambda x: nn.functional.linear(x, own[1]), LogitRules(scale=0.5))
    teacher = States(taught_ND, lambda x: nn.functional.linear(x, head_VD), LogitRules(softcap=3.0))
    logprobs_N, kl_N = divergence_scores(student, teacher, targets_N)
    (0.7 * kl_N - 0.3 * logprobs_N).sum().backward()

    whole = [tensor.clone().requires_grad_() for tensor in (hidden_ND, weight_VD)]
    student_NV = (0.5 * whole[0] @ whole[1].mT).log_softmax(-1)
    teacher_NV = (3.0 * torch.tanh(taught_ND @ head_VD.mT / 3.0)).log_softmax(-1)
    expected_kl_N = nn.functional.kl_div(student_NV, teacher_NV, reduction="none", log_target=True).sum(-1)
    expected_N = student_NV.gather(1, targets_N[:, None]).squeeze(1)
    torch.testing.assert_close(kl_N, expected_kl_N)
    torch.testing.assert_close(logprobs_N, expected_N)
    (0.7 * expected_kl_N - 0.3 * expected_N).sum().backward()
    for ours, theirs in zip(own, whole, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
