import json
import math
from pathlib import Path

import pytest
import torch

from grpo.kernels.logprobs import token_entropy, token_logprobs, token_logprobs_and_entropy

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_entropy(dtype: torch.dtype, tolerance: float) -> None:
    vector = VECTORS["entropy.token"]
    expected = vector["expected"]
    logits_NV = torch.tensor(vector["inputs"]["logits"], dtype=dtype, requires_grad=True)
    entropy_N = token_entropy(logits_NV)
    assert entropy_N.tolist() == pytest.approx(expected["entropy"], abs=tolerance)
    assert -0.001 * entropy_N.mean().item() == pytest.approx(expected["loss_with_bonus_coef_0.001"], abs=tolerance)
    gradient_NV = torch.autograd.grad(entropy_N.sum(), logits_NV)[0]
    torch.testing.assert_close(gradient_NV, torch.tensor(expected["dH_dlogits"], dtype=dtype), atol=1e-6, rtol=0)


def test_logprobs_by_hand() -> None:
    # odds 3 : 1 and four equal chances
    logits_NV = torch.tensor([[math.log(3.0), 0.0, -1000.0, -1000.0], [5.0, 5.0, 5.0, 5.0]])
    logprobs_N = token_logprobs(logits_NV, torch.tensor([1, 3]))
    assert logprobs_N.tolist() == pytest.approx([-math.log(4), -math.log(4)], abs=1e-6)


def test_both_at_once_are_the_two_alone_with_the_same_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(7, 11, generator=random).requires_grad_()
    targets_N = torch.randint(11, (7,), generator=random)
    logprobs_N, entropy_N = token_logprobs_and_entropy(logits_NV, targets_N)
    alone_N = token_logprobs(logits_NV, targets_N), token_entropy(logits_NV)
    assert torch.equal(logprobs_N, alone_N[0])
    assert torch.equal(entropy_N, alone_N[1])
    together_NV = torch.autograd.grad((logprobs_N + entropy_N).sum(), logits_NV)[0]
    apart_NV = torch.autograd.grad((alone_N[0] + alone_N[1]).sum(), logits_NV)[0]
    torch.testing.assert_close(together_NV, apart_NV)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_read_in_float32(dtype: torch.dtype) -> None:
    logits_NV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets_N = torch.tensor([0, 1, 2])
    logprobs_N, entropy_N = token_logprobs_and_entropy(logits_NV, targets_N)
    assert logprobs_N.dtype == entropy_N.dtype == torch.float32
    exact_NV = logits_NV.double().log_softmax(-1)
    torch.testing.assert_close(logprobs_N.double(), exact_NV.gather(-1, targets_N[:, None])[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy_N.double(), -(exact_NV.exp() * exact_NV).sum(-1), atol=1e-5, rtol=0)


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    logits_NV = torch.tensor([[1.0, 2.0, 3.0]])
    target_N = torch.tensor([0])
    torch.testing.assert_close(token_logprobs(logits_NV + 1000, target_N), token_logprobs(logits_NV, target_N))
    torch.testing.assert_close(token_entropy(logits_NV + 1000), token_entropy(logits_NV))
