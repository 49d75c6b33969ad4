"""Which modules get their functions from here, and that nothing changes but rounding."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.fused import fuse
from grpo.kernels.thin_linear import is_thin, thin_linear

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "pad_token_id": 0,
}  # fmt: skip


def fused(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", {"LlamaRMSNorm": 5, "LlamaMLP": 2, "Linear": 15}),
        ("qwen3", {"Qwen3RMSNorm": 9, "Qwen3MLP": 2, "Linear": 15}),
        ("gemma2", {"Gemma2RMSNorm": 9, "Linear": 15}),  # whose gate is a gelu
        ("phi3", {"Phi3RMSNorm": 5, "Linear": 9}),  # whose gate is half of one layer's output
    ],
)
def test_modules_are_replaced_and_compute_the_same(architecture: str, names: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    own = copy.deepcopy(model)
    fuse(model)
    found = fused(model)
    assert {name: found.count(name) for name in set(found)} == names
    ids = torch.randint(64, (2, 7))
    losses = [m(ids, labels=ids).loss for m in (model, own)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for a, b in zip(model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # 14 rows, for which linear layers have a way of their own
        torch.testing.assert_close(model(ids).logits, own(ids).logits)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(12,), (5, 11)])
def test_a_thin_product_is_the_linear_layer(rows: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    hidden = torch.randn(*rows, 24)
    assert not is_thin(hidden)  # gradients would need it
    with torch.no_grad():
        assert is_thin(hidden)
        out = thin_linear(hidden, layer.weight, layer.bias)
        torch.testing.assert_close(out, layer(hidden))
        assert out.is_contiguous()
        assert not is_thin(torch.randn(64, 24))
        assert not is_thin(hidden.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not is_thin(hidden)


def test_a_copy_is_fused_with_its_own_weights() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    fuse(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.zero_()
    assert twin(torch.tensor([[1, 2]])).logits.eq(0).all()
    assert not model(torch.tensor([[1, 2]])).logits.eq(0).all()


def test_half_precision_keeps_its_own_functions() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES), dtype=torch.bfloat16)
    fuse(model)
    assert fused(model) == []


def test_a_norm_that_computes_something_else_stays() -> None:
    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.weight * hidden / hidden.abs().mean(-1, keepdim=True)

    model = nn.Sequential(OddRMSNorm())
    fuse(model)
    assert fused(model) == []
