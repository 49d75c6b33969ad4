"""Packed attention equals one masked attention over everything, in value and gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from grpo.batch import TokenSequence, pack
from grpo.forward import prepare_packing, target_logprobs
from grpo.kernels.packed_attention import PACKED, masked_attention, packed_attention


class Heads(nn.Module):
    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@pytest.mark.parametrize("lengths", [[5], [3, 9, 1, 4, 9], [2] * 7])
@pytest.mark.parametrize(("groups", "value_size"), [(1, 8), (2, 8), (1, 5)])
def test_equals_the_masked_reference(lengths: list[int], groups: int, value_size: int) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    query = torch.randn(1, 4, total, 8, requires_grad=True)
    key = torch.randn(1, 4 // groups, total, 8, requires_grad=True)
    value = torch.randn(1, 4 // groups, total, value_size, requires_grad=True)
    upstream = torch.randn(1, total, 4, value_size)

    expected = masked_attention(Heads(groups), query, key, value, lengths)
    got, _ = packed_attention(Heads(groups), query, key, value, None, packed_lengths=lengths)

    torch.testing.assert_close(got, expected)
    inputs = (query, key, value)
    for ours, reference in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "deepseek_v3"])
def test_packing_changes_no_log_probability_and_no_gradient(
    family: str, tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model = tiny_model(family)
    prepare_packing(model, byte_tokenizer)
    assert model.config._attn_implementation == PACKED
    sequences = [
        TokenSequence((7, 8, 9), (20, 21)),
        TokenSequence((3,), (4, 5, 6, 7)),
        TokenSequence((1, 2), (3,) * 30),
    ]
    device = torch.device("cpu")

    together = target_logprobs(model, pack(sequences, device))
    together.sum().backward()
    packed_gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    apart = torch.cat([target_logprobs(model, pack([sequence], device)) for sequence in sequences])
    apart.sum().backward()

    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    for ours, p in zip(packed_gradients, model.parameters(), strict=True):
        if p.grad is not None:
            assert ours is not None
            torch.testing.assert_close(ours, p.grad, atol=1e-5, rtol=1e-4)
