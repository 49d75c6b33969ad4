import math

import pytest
import torch

from grpo.rollout.engine import Sampling
from grpo.rollout.sampler import choose, choose_from, uniforms


def sampling(temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(temperature, max_new_tokens=1, top_p=top_p)


def draw(probabilities: list[float], uniform: list[float], settings: Sampling) -> tuple[list[int], list[float]]:
    logits_BV = torch.tensor(probabilities).log().expand(len(uniform), -1)
    token_B, logprob_B = choose(logits_BV, torch.tensor(uniform, dtype=torch.float64), settings)
    return token_B.tolist(), logprob_B.exp().tolist()


def test_inverse_cdf_by_hand() -> None:
    # Intervals: [0, 0.5) is token 0, token 1 is empty, [0.5, 0.75) is token 2, [0.75, 1) is token 3.
    tokens, probabilities = draw([0.5, 0.0, 0.25, 0.25], [0.0, 0.49, 0.5, 0.74, 0.75, 0.99], sampling())
    assert tokens == [0, 0, 2, 2, 3, 3]
    assert probabilities == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("settings", [sampling(0.7), sampling(0), sampling(1.3, top_p=0.8)], ids=str)
def test_several_that_go_on_from_one_row_choose_as_each_does_alone(settings: Sampling) -> None:
    logits_BV = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    row_O = torch.tensor([2, 0, 2, 2, 3, 0])  # nothing goes on from row 1
    uniform_O = uniforms([5], len(row_O))[0]
    together, alone = choose_from(logits_BV, row_O, uniform_O, settings), choose(logits_BV[row_O], uniform_O, settings)
    assert torch.equal(together[0], alone[0])
    torch.testing.assert_close(together[1], alone[1])


def test_temperature_bends_the_probability_that_is_told() -> None:
    # At temperature 0.5 the probabilities are squared: 0.64 and 0.04 of 0.68.
    tokens, probabilities = draw([0.8, 0.2], [0.9, 0.95], sampling(temperature=0.5))
    assert tokens == [0, 1]
    assert probabilities == pytest.approx([16 / 17, 1 / 17])


def test_greedy_takes_the_first_of_the_likeliest_at_temperature_1() -> None:
    assert draw([0.2, 0.4, 0.4], [0.99], sampling(temperature=0)) == ([1], [pytest.approx(0.4)])


def test_nucleus_is_the_smallest_set_that_reaches_top_p_and_the_logprob_ignores_it() -> None:
    # Sorted: 0.4 (token 2), 0.3 (token 0), 0.2, 0.1. Mass 0.7 needs the first two; 0.71 a third. Vocabulary order:
    # token 0 has [0, 3/7), token 2 the rest.
    tokens, probabilities = draw([0.3, 0.2, 0.4, 0.1], [0.0, 0.42, 0.43, 0.999], sampling(top_p=0.69))
    assert tokens == [0, 0, 2, 2]
    assert probabilities == pytest.approx([0.3, 0.3, 0.4, 0.4])
    tokens, _ = draw([0.3, 0.2, 0.4, 0.1], [0.999, 0.5, 0.35], sampling(top_p=0.71))
    assert tokens == [2, 1, 1]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_tokens_of_probability_zero_are_never_chosen(top_p: float) -> None:
    logits_V = torch.full((1000,), -math.inf)
    logits_V[1::2] = torch.randn(500, generator=torch.Generator().manual_seed(0))
    edges = torch.tensor([0.0, 5e-324, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    uniform_B = torch.cat([edges, uniforms([1], 5000)[0]])
    token_B, logprob_B = choose(logits_V.expand(len(uniform_B), -1), uniform_B, sampling(top_p=top_p))
    assert (token_B % 2 == 1).all()
    assert logprob_B.isfinite().all()


def test_one_token_with_all_the_mass() -> None:
    tokens, probabilities = draw([0.0, 0.0, 1.0, 0.0], [0.0, 0.5, 1 - 2.0**-53], sampling())
    assert tokens == [2, 2, 2]
    assert probabilities == [1.0, 1.0, 1.0]


def test_frequencies_follow_the_softmax() -> None:
    logits_V = torch.randn(20, generator=torch.Generator().manual_seed(0))
    draws = 20_000
    uniform_B = uniforms(range(draws), 1)[:, 0]
    token_B, _ = choose(logits_V.expand(draws, -1), uniform_B, sampling(temperature=0.7))
    expected_V = draws * torch.softmax(logits_V / 0.7, -1)
    statistic = ((torch.bincount(token_B, minlength=20) - expected_V) ** 2 / expected_V).sum().item()
    # 19 degrees of freedom: a right sampler exceeds the 99.9 % quantile, 43.8, with one set of seeds in a thousand.
    assert statistic < 43.8


def test_uniforms_are_prefixes_and_use_every_bit_of_the_seed() -> None:
    long = uniforms([7, 7 + 2**32, 2**62 + 7], 100)
    assert long.dtype == torch.float64
    assert torch.equal(uniforms([7], 3)[0], long[0, :3])
    assert long[:, 0].unique().numel() == 3


def test_nan_is_told_and_stays_inside_the_vocabulary() -> None:
    token_B, logprob_B = choose(torch.full((2, 5), math.nan), torch.tensor([0.1, 0.9]), sampling())
    assert ((token_B >= 0) & (token_B < 5)).all()
    assert logprob_B.isnan().all()
