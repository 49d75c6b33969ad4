"""Attention over packed groups equals one masked attention over everything, in value and gradient."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv

from grpo.batch import pack
from grpo.forward import packs, prepare_packing, target_scores
from grpo.kernels import plain_attention
from grpo.kernels.begun_attention import Beginning, begun_attention
from grpo.kernels.layout import Layout
from grpo.kernels.packed_attention import (
    PACKED,
    capped_attention,
    masked_attention,
    packed_attention,
)
from grpo.kernels.plain_attention import Rules
from grpo.kernels.prefix_attention import prefix_attention
from grpo.types import PackedGroup, TokenSequence

CPU = torch.device("cpu")
GROUPS = {
    "one sequence": [PackedGroup(2, (3,))],
    "one group": [PackedGroup(7, (3, 9, 1, 4, 9))],
    "ragged groups": [PackedGroup(1, (30, 2)), PackedGroup(40, (1, 0, 5)), PackedGroup(3, ()), PackedGroup(9, (0, 0))],
    "many of one": [PackedGroup(5, (n,)) for n in (1, 30, 2, 2, 17)],
    "longer than a block": [PackedGroup(300, (280, 290)), PackedGroup(2, (270,))],
}
RULES = [Rules(0.3), Rules(0.3, softcap=2.0), Rules(0.3, window=4), Rules(0.3, softcap=2.0, window=25)]
SHAPES = {"MHA": (4, 4, 8, 8), "GQA": (4, 2, 8, 8), "MLA": (4, 4, 12, 8), "wide values": (2, 1, 4, 8)}


def tensors(layout: Layout, shape: tuple[int, ...], seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, and a gradient of the output."""
    heads, shared, size, values = shape
    random_numbers = torch.Generator().manual_seed(seed)
    shapes = [(heads, size), (shared, size), (shared, values)]
    inputs = [torch.randn(1, layout.tokens, *s, generator=random_numbers).transpose(1, 2) for s in shapes]
    return [t.requires_grad_() for t in inputs], torch.randn(1, layout.tokens, heads, values, generator=random_numbers)


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_equals_the_masked_reference(groups: list[PackedGroup], shape: tuple[int, ...], rules: Rules) -> None:
    layout = Layout.of_groups(groups, CPU)
    inputs, upstream = tensors(layout, shape)
    expected, got = masked_attention(*inputs, layout, rules), prefix_attention(*inputs, layout, rules)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_who_sees_whom_by_hand() -> None:
    """Prompt p q, completions a b and c: c sees the prompt and itself alone; the next group sees nothing of it."""
    seen = Layout.of_groups([PackedGroup(2, (2, 1)), PackedGroup(1, (1,))], CPU).visible().int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_a_window_counts_positions_not_places_in_the_packing() -> None:
    layout = Layout.of_groups([PackedGroup(2, (2, 2))], CPU)
    assert layout.positions.tolist() == [0, 1, 2, 3, 2, 3]
    assert layout.visible(window=2)[4].tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("rules", [Rules(0.3), Rules(0.3, softcap=2.0)], ids=str)
def test_the_plain_gradient_is_autograd_s(rules: Rules) -> None:
    random_numbers = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, n, 8, generator=random_numbers).requires_grad_() for h, n in ((4, 5), (2, 7), (2, 7)))
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2)
    expected = capped_attention(q, k, v, mask, rules).transpose(1, 2)
    out, lse = plain_attention.attend(q, k, v, mask, rules)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape, generator=random_numbers)
    ours = plain_attention.gradients(upstream, q, k, v, out, lse, mask, rules)
    for one, other in zip(ours, torch.autograd.grad(expected, (q, k, v), upstream), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


class Attention(nn.Module):
    is_causal = True
    num_key_value_groups = 2


def packed_call(query: Tensor, key: Tensor, value: Tensor, layout: Layout | None, rules: Rules, **more: Any) -> Tensor:
    settings = {"scaling": rules.scale, "softcap": rules.softcap, "sliding_window": rules.window}
    return packed_attention(Attention(), query, key, value, None, packing=layout, **settings, **more)[0]


def test_a_call_without_packing_is_plain_causal_attention_with_or_without_a_softcap() -> None:
    layout = Layout.of_groups([PackedGroup(3, (4,))], CPU)
    inputs, _ = tensors(layout, SHAPES["GQA"])
    for rules in (Rules(0.3), Rules(0.3, softcap=2.0)):
        torch.testing.assert_close(packed_call(*inputs, None, rules), masked_attention(*inputs, layout, rules))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_rows_behind_a_beginning_attend_as_whole_sequences_do(
    padding: int, queries: int, softcap: float | None
) -> None:
    """Two rows of seven keys behind five that both begin with, the second row padded; the last queries ask."""
    torch.manual_seed(0)
    shared, own = torch.randn(2, 1, 2, 5, 8).unbind(), torch.randn(2, 2, 2, 7, 8).unbind()
    query = torch.randn(2, 4, queries, 8)
    causal = torch.ones(queries, 7, dtype=torch.bool).tril(7 - queries).repeat(2, 1, 1, 1)
    causal[1, :, :, :padding] = False
    module, beginning = Attention(), Beginning()
    module.layer_idx = 3
    packed_attention(module, torch.randn(1, 4, 5, 8), *shared, None, beginning=beginning)
    beginning.is_read = True
    mask = causal if padding else None
    out, _ = packed_attention(module, query, *own, mask, scaling=0.3, softcap=softcap, beginning=beginning)
    whole = [torch.cat([part.expand(2, -1, -1, -1), mine], 2) for part, mine in zip(shared, own, strict=True)]
    key, value = (repeat_kv(part, 2) for part in whole)
    scores = 0.3 * query @ key.mT
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    hidden = torch.cat([torch.zeros(2, 1, queries, 5, dtype=torch.bool), ~causal], -1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_scores_behind_a_beginning_are_not_rounded_under_autocast() -> None:
    torch.manual_seed(0)
    shared, own = torch.randn(2, 2, 5, 8).unbind(), torch.randn(2, 2, 2, 7, 8).unbind()
    query = 9 * torch.randn(2, 4, 1, 8)  # scores of tens, which bf16 rounds to quarters
    exact = begun_attention(query, *own, None, (shared[0], shared[1]), Rules(1.0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(begun_attention(query, *own, None, (shared[0], shared[1]), Rules(1.0)), exact)


def test_a_newest_token_attends_without_repeated_keys() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 1, 8), torch.randn(3, 2, 6, 8), torch.randn(3, 2, 6, 8)
    seen = torch.rand(3, 1, 1, 6) > 0.3
    for mask in (None, seen):
        scores = 0.3 * query @ repeat_kv(key, 2).mT
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        out, _ = packed_attention(Attention(), query, key, value, mask, scaling=0.3)
        torch.testing.assert_close(out, (scores.softmax(-1) @ repeat_kv(value, 2)).transpose(1, 2))


def test_terms_that_are_unknown_here_are_refused() -> None:
    inputs, _ = tensors(Layout.of_groups([PackedGroup(3, (4,))], CPU), SHAPES["GQA"])
    with pytest.raises(NotImplementedError, match="Attention attends with s_aux"):
        packed_call(*inputs, None, Rules(0.3), s_aux=torch.zeros(4))
    with pytest.raises(NotImplementedError, match="Attention attends with indices"):  # DeepSeek-V3.2's sparse attention
        packed_call(*inputs, None, Rules(0.3), indices=torch.zeros(4))


def test_dropped_attention_weights_are_dropped() -> None:
    layout = Layout.of_groups([PackedGroup(3, (4, 2))], CPU)
    inputs, _ = tensors(layout, SHAPES["GQA"])
    torch.manual_seed(0)
    assert not torch.allclose(
        packed_call(*inputs, layout, Rules(0.3), dropout=0.5), packed_call(*inputs, layout, Rules(0.3))
    )


# --- whole models -----------------------------------------------------------------------------------------------------

SEQUENCES = [
    TokenSequence((7, 8, 9), (20, 21)),
    TokenSequence((7, 8, 9), (30, 21, 4, 4, 6)),
    TokenSequence((7, 8, 9), (5,)),
    TokenSequence((3,), (4, 5, 6, 7)),
    TokenSequence((1, 2), (3,) * 30),
    TokenSequence((1, 2), (3, 4) * 13),
]


def own_scores(model: Any, sequences: list[TokenSequence], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies by the model's own eager attention, one sequence at a time."""
    logprobs, entropies = [], []
    for s in sequences:
        ids = torch.tensor([[*s.prompt_ids, *s.target_ids]])
        rows = (model(input_ids=ids).logits[0, len(s.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
        logprobs.append(rows[torch.arange(len(rows)), torch.tensor(s.target_ids)])
        entropies.append(-(rows.exp() * rows).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def gradient(model: Any, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(model.parameters(), parts, strict=True)
        ]
    )


FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"]
FAMILIES += ["mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "deepseek_v2", "deepseek_v3"]


WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
"""Of qwen2_moe, whose calls of attention do not tell it."""


@pytest.mark.parametrize(("family", "config"), [*((family, {}) for family in FAMILIES), ("qwen2_moe", WINDOW)])
def test_packing_changes_no_loss_and_no_gradient(
    family: str, config: dict[str, Any], tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    """Within 1e-5, relative, of the model's own forward pass over each sequence alone, however they are grouped."""
    model = tiny_model(family, attn_implementation="eager", **config)
    order = random.Random(0).sample(range(len(SEQUENCES)), len(SEQUENCES))
    weights = torch.rand(2, 68, generator=torch.Generator().manual_seed(0))

    def loss(logprobs: Tensor, entropies: Tensor) -> Tensor:
        return (weights[0] * logprobs + 0.1 * weights[1] * entropies).sum()

    for sequences in (SEQUENCES, [SEQUENCES[i] for i in order]):
        model.set_attn_implementation("eager")
        expected = loss(*own_scores(model, sequences, 0.7))
        expected_gradient = gradient(model, expected)
        assert prepare_packing(model, byte_tokenizer) == []
        assert packs(model)
        got = loss(*target_scores(model, pack(sequences, CPU), 0.7)[:2])
        assert abs(got - expected) <= 1e-5 * abs(expected)
        assert (gradient(model, got) - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@torch.no_grad()
def test_experts_are_chosen_as_they_are_for_each_sequence_alone(
    tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model = tiny_model("qwen3_moe", seed=3)
    prepare_packing(model, byte_tokenizer)
    packed = pack(SEQUENCES[:3], CPU)
    inputs = {"input_ids": packed.token_ids_T[None], "position_ids": packed.position_ids_T[None]}
    mask, layout = torch.ones(1, 1, 1, 1, dtype=torch.bool), Layout.of_groups(packed.groups, CPU)
    together = model.model(**inputs, attention_mask=mask, packing=layout, output_router_logits=True).router_logits
    for place, ids in ((0, (7, 8, 9, 20)), (4, (7, 8, 9, 30, 21, 4, 4))):
        alone = model.model(input_ids=torch.tensor([ids]), output_router_logits=True).router_logits
        for ours, theirs in zip(together, alone, strict=True):
            own = torch.cat([ours[:3], ours[max(place, 3) : max(place, 3) + len(ids) - 3]])
            assert torch.equal(own.topk(2).indices, theirs.topk(2).indices)


def test_no_mask_over_all_tokens_is_built(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_model("gemma2")
    prepare_packing(model, byte_tokenizer)
    assert model.config._attn_implementation == PACKED
    masks = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        masks.append(kwargs["attention_mask"].numel())

    for layer in model.model.layers:
        layer.register_forward_pre_hook(note, with_kwargs=True)
    target_scores(model, pack(SEQUENCES, CPU))
    assert masks == [1, 1]
