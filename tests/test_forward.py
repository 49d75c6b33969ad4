"""Log-probabilities of packed targets. What the attention does to them is in test_packed_attention.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.batch import TokenSequence, pack
from grpo.forward import prepare_packing, target_logits, target_logprobs, target_logprobs_and_entropy
from grpo.kernels.packed_attention import PACKED
from grpo.policy import add_lora
from grpo.recipe import LoraSettings
from grpo.types import UserError

CPU = torch.device("cpu")
SEQUENCES = [TokenSequence((5, 6, 7), (8, 9)), TokenSequence((1,), (2, 3, 4, 5)), TokenSequence((9, 9), (1,))]


def plain_logits(model: nn.Module, sequence: TokenSequence) -> Tensor:
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.target_ids]])
    return model(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 : -1]


@pytest.mark.parametrize("family", ["llama", "qwen2", "deepseek_v3"])
@torch.no_grad()
def test_equals_a_forward_pass_over_each_sequence(family: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model(family)
    for temperature in (1.0, 0.5):
        rows_NV = torch.cat([plain_logits(model, s) for s in SEQUENCES]).div(temperature).log_softmax(-1)
        targets_N = torch.tensor([t for s in SEQUENCES for t in s.target_ids])
        expected_N = rows_NV[torch.arange(len(targets_N)), targets_N]
        packed = pack(SEQUENCES, CPU)
        logprobs_N, entropy_N = target_logprobs_and_entropy(model, packed, temperature)
        torch.testing.assert_close(logprobs_N, expected_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy_N, -(rows_NV.exp() * rows_NV).sum(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(target_logprobs(model, packed, temperature), logprobs_N)


@torch.no_grad()
def test_a_sequence_does_not_see_its_neighbours(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_model("llama")
    prepare_packing(model, byte_tokenizer)
    other = [SEQUENCES[0], TokenSequence((200,), (100, 101, 102, 103)), SEQUENCES[2]]
    one_N, two_N = target_logprobs(model, pack(SEQUENCES, CPU)), target_logprobs(model, pack(other, CPU))
    same_N = torch.tensor([True, True, False, False, False, False, True])
    torch.testing.assert_close(one_N[same_N], two_N[same_N])
    assert not torch.isclose(one_N[~same_N], two_N[~same_N]).any()


@torch.no_grad()
def test_logits_are_float32_and_of_the_targets_alone(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    logits_NV = target_logits(model, pack(SEQUENCES, CPU))
    assert (logits_NV.dtype, tuple(logits_NV.shape)) == (torch.float32, (7, 264))


def test_preparing_leaves_mode_and_gradients_as_they_were(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    for training in (True, False):
        model = tiny_model("llama").train(training)
        prepare_packing(model, byte_tokenizer)
        assert model.training is training
        assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_adapters_go_through_packed_attention_too(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = add_lora(tiny_model("llama"), LoraSettings(rank=2)).eval()
    apart_N = torch.cat([target_logprobs(model, pack([s], CPU)) for s in SEQUENCES])
    prepare_packing(model, byte_tokenizer)
    assert model.config._attn_implementation == PACKED
    torch.testing.assert_close(target_logprobs(model, pack(SEQUENCES, CPU)), apart_N, rtol=1e-4, atol=1e-5)


def test_a_model_that_mixes_neighbours_is_refused(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    """A recurrent layer carries its state over the border between two sequences."""
    with pytest.raises(UserError, match="Qwen3NextForCausalLM mixes sequences that are packed side by side"):
        prepare_packing(tiny_model("qwen3_next"), byte_tokenizer)
