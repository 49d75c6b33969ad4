"""Scores of packed targets, and what models get that cannot pack. Attention itself is in test_packed_attention.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.batch import pack
from grpo.forward import packs, prepare_packing, target_logprobs, target_scores
from grpo.model_settings import LoraSettings
from grpo.policy import add_lora
from grpo.types import TokenSequence

CPU = torch.device("cpu")
SEQUENCES = [
    TokenSequence((5, 6, 7), (8, 9)),
    TokenSequence((5, 6, 7), (4, 8, 1)),
    TokenSequence((1,), (2, 3, 4, 5)),
    TokenSequence((9, 9), (1,)),
]


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
        logprobs_N, entropy_N, likeliest_N = target_scores(model, packed, temperature)
        torch.testing.assert_close(logprobs_N, expected_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy_N, -(rows_NV.exp() * rows_NV).sum(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(likeliest_N, rows_NV.exp().amax(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(target_logprobs(model, packed, temperature), logprobs_N)


@torch.no_grad()
def test_a_sequence_does_not_see_its_neighbours(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_model("llama")
    prepare_packing(model, byte_tokenizer)
    other = [
        SEQUENCES[0],
        TokenSequence((5, 6, 7), (40, 81, 12)),
        TokenSequence((200,), (100, 101, 102, 103)),
        SEQUENCES[3],
    ]
    one_N, two_N = target_logprobs(model, pack(SEQUENCES, CPU)), target_logprobs(model, pack(other, CPU))
    same_N = torch.tensor([True, True, *[False] * 7, True])
    torch.testing.assert_close(one_N[same_N], two_N[same_N])
    assert not torch.isclose(one_N[~same_N], two_N[~same_N]).any()


@torch.no_grad()
def test_scores_of_a_half_precision_model_are_float32(tiny_model: Callable[..., Any]) -> None:
    scores = target_scores(tiny_model("llama").to(torch.bfloat16), pack(SEQUENCES, CPU))
    assert [(s.dtype, tuple(s.shape)) for s in scores] == [(torch.float32, (10,))] * 3


def test_preparing_leaves_mode_and_gradients_as_they_were(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    for training in (True, False):
        model = tiny_model("llama").train(training)
        prepare_packing(model, byte_tokenizer)
        assert model.training is training
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("targets", [None, ["q_proj", "lm_head"]])
@torch.no_grad()
def test_adapters_work_in_the_attention_and_in_the_head(
    targets: list[str] | None, tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model = add_lora(tiny_model("llama", tie_word_embeddings=False), LoraSettings(rank=2, targets=targets)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    apart_N = torch.cat(
        [plain_logits(model, s).log_softmax(-1)[range(len(s.target_ids)), s.target_ids] for s in SEQUENCES]
    )
    assert prepare_packing(model, byte_tokenizer) == []
    assert packs(model)
    torch.testing.assert_close(target_logprobs(model, pack(SEQUENCES, CPU)), apart_N, rtol=1e-4, atol=1e-5)


def test_gradients_reach_an_adapter_of_the_head(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = add_lora(tiny_model("llama"), LoraSettings(rank=2, targets=["lm_head"]))
    prepare_packing(model, byte_tokenizer)
    target_logprobs(model, pack(SEQUENCES, CPU)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "lora_B" in name)


# --- models that cannot pack ------------------------------------------------------------------------------------------


def test_a_model_that_mixes_neighbours_gets_padded_rows(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    """A recurrent layer carries its state over the border between two sequences."""
    model = tiny_model("qwen3_next")
    before = model.config._attn_implementation
    (note,) = prepare_packing(model, byte_tokenizer)
    assert note.startswith("Qwen3NextForCausalLM: sequences are padded to the longest, and prompts repeated")
    assert (packs(model), model.config._attn_implementation) == (False, before)
    expected = [plain_logits(model, s).log_softmax(-1)[range(len(s.target_ids)), s.target_ids] for s in SEQUENCES]
    got = target_logprobs(model, pack(SEQUENCES, CPU))
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)
    got.sum().backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    torch.cat(expected).sum().backward()
    theirs = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


class Doubled(nn.Module):
    """A head with an architecture's own idea of logits."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * self.head(hidden)


@torch.no_grad()
def test_a_head_of_another_kind_is_called_as_it_is(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_model("llama")
    model.lm_head = Doubled(model.lm_head)
    assert prepare_packing(model, byte_tokenizer) == []
    expected = [plain_logits(model, s).log_softmax(-1)[range(len(s.target_ids)), s.target_ids] for s in SEQUENCES]
    torch.testing.assert_close(target_logprobs(model, pack(SEQUENCES, CPU)), torch.cat(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_logits_that_no_head_gives_come_from_the_model_itself(
    tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model = tiny_model("llama")
    model.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", 3 * output.logits))
    (note,) = prepare_packing(model, byte_tokenizer)
    assert note.startswith("LlamaForCausalLM: logits are computed whole")
    assert packs(model)
    expected = [plain_logits(model, s).log_softmax(-1)[range(len(s.target_ids)), s.target_ids] for s in SEQUENCES]
    torch.testing.assert_close(target_logprobs(model, pack(SEQUENCES, CPU)), torch.cat(expected), rtol=1e-4, atol=1e-5)
