"""Scores straight from hidden states equal those of whole logits, in value and gradient, tile by tile."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo.kernels import head_logprobs
from grpo.kernels.head_logprobs import LogitRules, TokenScores, head_scores, module_scores
from grpo.kernels.logprobs import token_logprobs_and_entropy

RULES = [LogitRules(), LogitRules(temperature=0.7), LogitRules(softcap=3.0, temperature=1.5), LogitRules(scale=0.25)]


def inputs(tokens: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Hidden states, weight and bias, and targets that include the first and the last token."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, 16), (vocabulary, 16), (vocabulary,)]
    tensors = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    targets_N = torch.randint(vocabulary, (tokens,), generator=generator)
    targets_N[0], targets_N[-1] = vocabulary - 1, 0
    return tensors, targets_N


def whole(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rules: LogitRules
) -> tuple[Tensor, ...]:
    """By the plain reference, from all logits."""
    raw = nn.functional.linear(hidden, weight, bias) * rules.scale
    capped = raw if rules.softcap is None else rules.softcap * torch.tanh(raw / rules.softcap)
    return token_logprobs_and_entropy(capped / rules.temperature, targets)


@pytest.fixture(params=["one tile", "ragged tiles"])
def tiles(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ragged tiles":
        monkeypatch.setattr(head_logprobs, "TILE", 1)
        monkeypatch.setattr(head_logprobs, "NARROWEST", 7)


WAYS: dict[str, Callable[..., TokenScores]] = {
    "head": head_scores,
    "module": lambda h, w, b, t, r: module_scores(h, lambda x: nn.functional.linear(x, w, b), t, r),
}


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 5), (13, 40)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_reference(tokens: int, vocabulary: int, with_bias: bool, rules: LogitRules, way: str) -> None:
    tensors, targets_N = inputs(tokens, vocabulary)
    given = tensors if with_bias else tensors[:2]
    arguments = (*given, *[None] * (3 - len(given)), targets_N, rules)
    expected, got = whole(*arguments), WAYS[way](*arguments)
    for ours, theirs in zip(got[:2], expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(2, tokens, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for weights in (upstream, upstream * torch.tensor([[1.0], [0.0]])):
        ours, theirs = (
            torch.autograd.grad((weights * torch.stack(tuple(out[:2]))).sum(), given, retain_graph=True)
            for out in (got, expected)
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("tiles")
def test_large_logits_keep_their_digits() -> None:
    """Logits of 1000 and 1000 - ln 3: odds 3 : 1, entropy ln 4 - 3/4 ln 3."""
    hidden = torch.tensor([[1000.0, -torch.tensor(3.0).log().item()]])
    weight = torch.zeros(9, 2)
    weight[2], weight[8] = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    scores = head_scores(hidden, weight, None, torch.tensor([8]), LogitRules())
    four = torch.tensor(4.0).log().item()
    assert scores.logprobs_N.item() == pytest.approx(-four, abs=2e-4)
    assert scores.entropy_N.item() == pytest.approx(four - 0.75 * torch.tensor(3.0).log().item(), abs=2e-4)
    assert scores.likeliest_N.item() == pytest.approx(0.75, abs=1e-4)


def test_a_frozen_head_costs_no_gradient_of_its_own() -> None:
    (hidden, weight, _), targets_N = inputs(5, 9)
    scores = head_scores(hidden, weight.detach(), None, targets_N, LogitRules())
    assert torch.autograd.grad(scores.logprobs_N.sum(), hidden)[0].any()


def test_autocast_multiplies_in_bf16_and_sums_in_float32() -> None:
    tensors, targets_N = inputs(13, 40, torch.float32)
    expected = whole(*(t.bfloat16() for t in tensors), targets_N, LogitRules())
    with torch.autocast("cpu", torch.bfloat16):
        got = head_scores(*tensors, targets_N, LogitRules())
    assert {score.dtype for score in got} == {torch.float32}
    torch.testing.assert_close(got.logprobs_N, expected[0].float(), atol=2e-2, rtol=0)
    gradient = torch.autograd.grad(got.logprobs_N.sum(), tensors)
    assert {part.dtype for part in gradient} == {torch.float32}
