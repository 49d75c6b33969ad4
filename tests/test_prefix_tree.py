"""What packed sequences have in common is computed once, and no number changes by it."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.batch import pack, token_indices
from grpo.forward import prepare_packing, target_scores
from grpo.kernels.layout import Layout, Segment
from grpo.kernels.packed_attention import masked_attention
from grpo.kernels.plain_attention import Rules
from grpo.kernels.prefix_attention import prefix_attention
from grpo.kernels.tiles import query_tiles
from grpo.prefix_tree import fold
from grpo.types import PackedTokens, TokenSequence

CPU = torch.device("cpu")
BY_HAND = [TokenSequence((5, 6), own) for own in ((7, 8, 9), (7, 8, 4), (3, 1))]


def alike(count: int, seed: int = 0) -> list[TokenSequence]:
    """Of three prompts with one beginning, completions of a sampler that is nearly certain: some are equal."""
    draw = random.Random(seed)
    return [
        TokenSequence((*range(20, 32), *prompt), tuple(draw.choices((1, 2, 3), (12, 1, 1), k=draw.randint(3, 12))))
        for prompt in ((7,), (7, 8), (5, 6, 7))
        for _ in range(count)
    ]


def prefixes(tokens: PackedTokens) -> set[tuple[int, ...]]:
    """Every beginning of a packed sequence: as many are the tokens that must be computed."""
    ids = [tokens.token_ids_T[place].tolist() for place in token_indices(tokens)]
    return {tuple(one[:length]) for one in ids for length in range(1, len(one) + 1)}


def test_a_tree_by_hand() -> None:
    tree = fold(pack(BY_HAND, CPU))
    assert tree.token_ids_R.tolist() == [5, 6, 3, 7, 8]
    assert tree.position_ids_R.tolist() == [0, 1, 2, 2, 3]
    assert tree.segments == (Segment(0, 2, 5, 0), Segment(2, 1, 3, 2), Segment(3, 2, 5, 2))
    assert tree.row_T.tolist() == [0, 1, 3, 4, 3, 4, 2]


def test_a_sequence_that_is_the_beginning_of_another_has_no_rows_of_its_own() -> None:
    tree = fold(pack([TokenSequence((1, 2), (3, 4, 5, 6)), TokenSequence((1, 2), (3, 4))], CPU))
    assert tree.token_ids_R.tolist() == [1, 2, 3, 4, 5]
    assert tree.segments == (Segment(0, 3, 5, 0), Segment(3, 2, 5, 3))


@pytest.mark.parametrize(("behind", "shared"), [(15, True), (16, False)])
def test_what_saves_too_little_for_the_rows_behind_it_is_computed_again(behind: int, shared: bool) -> None:
    """One token is saved, and 30 or 32 rows would attend to it."""
    tokens = pack([TokenSequence((1,), (start,) * (behind + 1)) for start in (2, 3)], CPU)
    lengths = [segment.length for segment in fold(tokens).segments]
    assert lengths == ([1, behind, behind] if shared else [behind + 1, behind + 1])


@pytest.mark.parametrize("seed", range(5))
def test_where_sharing_always_pays_every_beginning_has_one_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo.prefix_tree.ROWS_A_TOKEN", 10**6)
    tokens = pack(alike(6, seed), CPU)
    tree = fold(tokens)
    assert len(tree.token_ids_R) == len(prefixes(tokens))
    assert torch.equal(tree.token_ids_R[tree.row_T], tokens.token_ids_T)
    assert torch.equal(tree.position_ids_R[tree.row_T], tokens.position_ids_T)
    assert torch.equal(Layout(tree.segments, CPU).positions, tree.position_ids_R)


@pytest.mark.parametrize("sequences", [alike(6), alike(60), [*alike(3), TokenSequence((20,), (4,) * 90)]])
def test_a_row_sees_its_own_beginning_alone(sequences: list[TokenSequence]) -> None:
    tokens = pack(sequences, CPU)
    tree = fold(tokens)
    seen_RR = Layout(tree.segments, CPU).visible()
    for place in token_indices(tokens):
        ids = tokens.token_ids_T[place].tolist()
        for length, row in enumerate(tree.row_T[place].tolist(), start=1):
            assert tree.token_ids_R[seen_RR[row]].tolist() == ids[:length]


@pytest.mark.parametrize("rules", [Rules(0.3), Rules(0.3, softcap=2.0), Rules(0.3, window=3)], ids=str)
@pytest.mark.parametrize("block", [1024, 7])
def test_attention_over_a_tree_equals_the_masked_reference(
    rules: Rules, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo.kernels.prefix_attention.MASKED_ROWS", block)
    tree = fold(pack(alike(8), CPU))
    layout, random_numbers = Layout(tree.segments, CPU), torch.Generator().manual_seed(0)
    shapes = ((4, 8), (2, 8), (2, 8), (4, 8))
    *inputs, upstream = (torch.randn(1, layout.tokens, *s, generator=random_numbers) for s in shapes)
    inputs = [t.transpose(1, 2).requires_grad_() for t in inputs]
    expected, got = masked_attention(*inputs, layout, rules), prefix_attention(*inputs, layout, rules)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def weighted(scores: Sequence[Tensor]) -> Tensor:
    """A loss in which every token counts differently."""
    logprobs_N, entropy_N = scores[:2]
    weights = torch.rand(2, len(logprobs_N), generator=torch.Generator().manual_seed(0))
    return (weights[0] * logprobs_N + 0.1 * weights[1] * entropy_N).sum()


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "mistral"])
def test_a_policy_s_scores_and_gradient_are_those_of_each_sequence_alone(
    family: str, tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    """Within 1e-5, relative, and at most two thirds of the packed tokens are computed."""
    model, sequences = tiny_model(family), alike(12)
    prepare_packing(model, byte_tokenizer)
    tokens = pack(sequences, CPU)
    got, rows = watched(model, tokens)
    assert rows == [len(fold(tokens).token_ids_R)]
    assert rows[0] < len(tokens.token_ids_T) * 2 / 3
    alone = [target_scores(model, pack([sequence], CPU), 0.7) for sequence in sequences]
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    expected_gradient = gradient(model, weighted(expected))
    assert (gradient(model, weighted(got)) - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


def watched(model: Any, tokens: PackedTokens) -> tuple[Sequence[Tensor], list[int]]:
    """The targets' scores, and how many rows the first layer computed."""
    rows: list[int] = []
    watch = model.model.layers[0].register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    scores = target_scores(model, tokens, 0.7)
    watch.remove()
    return scores, rows


def test_equal_completions_have_equal_scores(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> None:
    model = tiny_model("llama")
    prepare_packing(model, byte_tokenizer)
    sequences = [TokenSequence((5, 6), (7, 8, 9))] * 8
    (scores, rows), (once, _) = (watched(model, pack(some, CPU)) for some in (sequences, sequences[:1]))
    assert rows == [4]
    torch.testing.assert_close(scores[0], once[0].repeat(8))
    ours, theirs = (gradient(model, given[0].sum()) for given in (scores, once))
    torch.testing.assert_close(ours, 8 * theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_experts_are_chosen_for_every_packed_token(
    family: str, tiny_model: Callable[..., Any], byte_tokenizer: Any
) -> None:
    model, tokens = tiny_model(family), pack(alike(12), CPU)
    prepare_packing(model, byte_tokenizer)
    assert watched(model, tokens)[1] == [len(tokens.token_ids_T)]


def test_tiles_of_a_gpu_refuse_what_goes_deeper_than_completions() -> None:
    layout = Layout(fold(pack(alike(6), CPU)).segments, CPU)
    with pytest.raises(NotImplementedError, match="no tree of deeper segments"):
        query_tiles(layout, 4)
