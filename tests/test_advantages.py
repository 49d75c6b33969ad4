import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grpo import advantages as adv
from grpo.advantage_settings import (
    BatchStdAdvantage,
    DrGrpoAdvantage,
    GroupAdvantage,
    ReinforcePlusPlusAdvantage,
    RlooAdvantage,
)

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
VECTORS = GOLDEN["vectors"]
SETTINGS = [
    GroupAdvantage(),
    GroupAdvantage(ddof=0, epsilon=0),
    DrGrpoAdvantage(kind="dr_grpo"),
    RlooAdvantage(kind="rloo"),
    BatchStdAdvantage(kind="batch_std"),
    BatchStdAdvantage(kind="batch_std", ddof=0, epsilon=0),
    ReinforcePlusPlusAdvantage(kind="reinforce_pp_baseline"),
    ReinforcePlusPlusAdvantage(kind="reinforce_pp_baseline", epsilon=0),
]


def tensor(values: object, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def close(actual: Tensor, expected: object, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual.double(), tensor(expected), atol=tolerance, rtol=0)


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


@pytest.mark.parametrize(
    "name",
    [
        "adv.grpo.unbiased_std.eps1e-6",
        "adv.grpo.unbiased_std.eps1e-4",
        "adv.grpo.population_std",
        "adv.grpo.graded_rewards",
        "adv.grpo.zero_variance",
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_grpo(name: str, dtype: torch.dtype, tolerance: float) -> None:
    vector = VECTORS[name]
    settings = GroupAdvantage(ddof=vector["options"]["ddof"], epsilon=vector["options"]["eps"])
    result_PG = adv.advantages(tensor([vector["inputs"]["rewards"]], dtype), settings)
    assert result_PG.dtype == dtype
    close(result_PG[0], vector["expected"]["advantages"], tolerance)


def test_zero_variance_is_dropped_by_dynamic_sampling() -> None:
    vector = VECTORS["adv.grpo.zero_variance"]
    kept = adv.keep_groups(tensor([vector["inputs"]["rewards"]])).tolist()
    assert kept == [vector["expected"]["keep_group_in_dynamic_sampling"]]


def test_dr_grpo() -> None:
    vector = VECTORS["adv.dr_grpo"]
    result_PG = adv.advantages(tensor([vector["inputs"]["rewards"]]), DrGrpoAdvantage(kind="dr_grpo"))
    close(result_PG[0], vector["expected"]["advantages"])


def test_rloo() -> None:
    vector = VECTORS["adv.rloo"]
    result_PG = adv.advantages(tensor([vector["inputs"]["rewards"]]), RlooAdvantage(kind="rloo"))
    close(result_PG[0], vector["expected"]["advantages"])


def test_rloo_is_the_reward_less_the_mean_of_the_others() -> None:
    # 3 - (1 + 2)/2, 1 - (3 + 2)/2, 2 - (3 + 1)/2; the unscored one is none of "the others"
    close(adv.leave_one_out(tensor([[3.0, 1.0, math.nan, 2.0]])), [[1.5, -1.5, 0.0, 0.0]])


def test_batch_std() -> None:
    vector = VECTORS["adv.batch_std"]
    result_PG = adv.advantages(tensor(vector["inputs"]["rewards"]), BatchStdAdvantage(kind="batch_std"))
    close(result_PG, vector["expected"]["advantages"])


def test_reinforce_pp_baseline_over_sequences() -> None:
    vector = VECTORS["adv.reinforce_pp_baseline.sequence"]
    settings = ReinforcePlusPlusAdvantage(kind="reinforce_pp_baseline", epsilon=vector["options"]["eps"])
    close(adv.advantages(tensor(vector["inputs"]["rewards"]), settings), vector["expected"]["advantages"])


def test_reinforce_pp_over_tokens() -> None:
    vector = VECTORS["adv.reinforce_pp.verl"]
    lengths = vector["inputs"]["lengths"]
    sequence_N = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    result_N = adv.reinforce_pp_tokens(tensor(vector["inputs"]["rewards"]), sequence_N)
    close(result_N, flat(vector["expected"]["advantages"]))


def test_reinforce_pp_baseline_over_tokens() -> None:
    vector = VECTORS["adv.reinforce_pp_baseline.verl"]
    lengths = vector["inputs"]["lengths"]
    sequence_N = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    result_N = adv.reinforce_pp_baseline_tokens(tensor([vector["inputs"]["rewards"]]), sequence_N)
    close(result_N, flat(vector["expected"]["advantages"]))


def test_token_whitening_leaves_out_the_unscored_and_the_equal() -> None:
    rewards_PG = tensor([[1.0, 0.0, math.nan], [0.3, 0.3, 0.3]])
    sequence_N = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    result_N = adv.reinforce_pp_baseline_tokens(rewards_PG, sequence_N, epsilon=0.0)
    # centred and scored: 0.5, 0.5, -0.5, 0, 0, 0, with mean 1/12 and variance (3/4 - 6/144) / 5 = 17/120
    std = math.sqrt(17 / 120)
    close(result_N, [5 / 12 / std, 5 / 12 / std, -7 / 12 / std, 0.0, 0.0, 0.0, 0.0])
    assert result_N[3:].tolist() == [0, 0, 0, 0]


def test_process_supervision() -> None:
    vector = VECTORS["adv.grpo.process_supervision"]
    steps = vector["inputs"]["step_end_index_1based_and_reward"]
    lengths = vector["inputs"]["lengths"]
    rewards_K = tensor([reward for row in steps for _, reward in row])
    sequence_K = torch.tensor([number for number, row in enumerate(steps) for _ in row])
    end_K = torch.tensor([end for row in steps for end, _ in row])
    result_N = adv.process_supervision(rewards_K, sequence_K, end_K, torch.tensor(lengths), ddof=1, epsilon=0.0)
    close(result_N, flat(vector["expected"]["advantages"]))


def test_gdpo() -> None:
    vector = VECTORS["adv.gdpo"]
    rewards_RPG = tensor([[vector["inputs"]["rewards"]["acc"]], [vector["inputs"]["rewards"]["format"]]])
    result_PG = adv.gdpo(rewards_RPG, tensor(vector["options"]["weights"]), ddof=1, epsilon=1e-4)
    close(result_PG[0], vector["expected"]["advantages"])
    summed_then_normalised_PG = adv.group_normalised(rewards_RPG.sum(0), ddof=1, epsilon=1e-4)
    close(summed_then_normalised_PG[0], vector["expected"]["sum_then_normalize_for_contrast"])


def test_gdpo_without_a_difference_or_a_reward_is_zero() -> None:
    nan = math.nan
    rewards_RPG = tensor([[[1.0, 0.0, nan], [0.1, 0.1, 0.1]], [[nan, nan, nan], [0.7, 0.7, 0.7]]])
    result_PG = adv.gdpo(rewards_RPG, tensor([1.0, 1.0]), ddof=1, epsilon=0.0)
    # group 1 is +-1/sqrt(2) at first; the batch's five scored values have variance 1/4
    close(result_PG, [[math.sqrt(2), -math.sqrt(2), 0.0], [0.0, 0.0, 0.0]])
    random_RPG = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random_RPG[:, 1] = 0.1
    assert (adv.gdpo(random_RPG, tensor([0.3, 1.7]), ddof=1, epsilon=1e-4)[1] == 0).all()


def test_a_lone_completion_has_no_baseline_and_so_advantage_zero_unless_verl_is_asked_for() -> None:
    vector = VECTORS["adv.grpo.single_sample.verl"]
    rewards_PG = tensor([vector["inputs"]["rewards"]])
    epsilon = vector["options"]["eps"]
    assert adv.group_normalised(rewards_PG, ddof=1, epsilon=epsilon).tolist() == [[0.0]]
    close(
        adv.group_normalised(rewards_PG, ddof=1, epsilon=epsilon, lone_as_is=True)[0], vector["expected"]["advantages"]
    )


def test_dynamic_sampling() -> None:
    vector = VECTORS["filter.dynamic_sampling"]
    assert adv.keep_groups(tensor(vector["inputs"]["acc"])).tolist() == vector["expected"]["keep"]


def test_dynamic_sampling_looks_at_scored_rewards_only() -> None:
    nan = math.nan
    rewards_PG = tensor([[1.0, nan, 0.0], [1.0, nan, 1.0], [nan, nan, 1.0], [nan, nan, nan]])
    assert adv.keep_groups(rewards_PG).tolist() == [True, False, False, False]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_rewards_give_exactly_zero(settings: adv.AdvantageSettings, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.cat([tensor([0.1, 0.7, 1 / 3, 1e-12, 1e9, -0.1]), torch.randn(200, generator=random).double() * 10])
    for size in (2, 3, 7, 8, 16):
        equal_PG = values.to(dtype)[:, None].expand(-1, size)
        assert (adv.advantages(equal_PG, settings) == 0).all()
        # an informative group in the same batch changes nothing about that
        batch_PG = torch.cat([equal_PG, torch.eye(size, dtype=dtype)[:1]])
        assert (adv.advantages(batch_PG, settings)[:-1] == 0).all()
        assert (adv.advantages(batch_PG, settings)[-1] != 0).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rewards_that_differ_by_rounding_are_equal(settings: adv.AdvantageSettings, dtype: torch.dtype) -> None:
    parts = [(0.1, 0.2, 0.3), (0.7, 0.1, 0.8), (1.1, 2.2, 3.3)]
    for a, b, total in parts:
        one, other = tensor(a, dtype) + tensor(b, dtype), tensor(total, dtype)
        assert adv.advantages(torch.stack([one, other, one])[None], settings).tolist() == [[0, 0, 0]]


def test_a_small_but_real_difference_counts() -> None:
    assert adv.keep_groups(tensor([[1.0, 1.0 + 1e-9]])).tolist() == [True]
    close(adv.group_normalised(tensor([[1.0, 1.0 + 1e-9]]), ddof=0, epsilon=0.0), [[-1.0, 1.0]])


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_unscorable_completions_take_no_part(settings: adv.AdvantageSettings) -> None:
    nan = math.nan
    with_nan_PG = adv.advantages(tensor([[1.0, nan, 0.0, 0.5], [2.0, 0.0, nan, 0.0]]), settings)
    without_PG = adv.advantages(tensor([[1.0, 0.0, 0.5], [2.0, 0.0, 0.0]]), settings)
    close(with_nan_PG[0, [0, 2, 3]], without_PG[0].tolist())
    close(with_nan_PG[1, [0, 1, 3]], without_PG[1].tolist())
    assert with_nan_PG[0, 1] == 0
    assert with_nan_PG[1, 2] == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_groups_with_fewer_than_two_scores_give_zero(settings: adv.AdvantageSettings) -> None:
    nan = math.nan
    result_PG = adv.advantages(tensor([[1.0, nan, nan], [nan, nan, nan], [1.0, 0.0, 0.0]]), settings)
    assert result_PG[:2].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert (result_PG[2] != 0).all()
    assert adv.advantages(tensor([[nan, nan]]), settings).tolist() == [[0, 0]]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_advantages_of_a_group_sum_to_zero_and_ignore_a_constant(settings: adv.AdvantageSettings) -> None:
    rewards_PG = torch.rand(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result_PG = adv.advantages(rewards_PG, settings)
    close(result_PG.sum(-1), [0.0] * 5)
    close(adv.advantages(rewards_PG + 3, settings), result_PG.tolist())


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_float32_rewards_are_summed_in_float64(settings: adv.AdvantageSettings) -> None:
    rewards_PG = torch.rand(5, 7, generator=torch.Generator().manual_seed(2)) + 1000
    assert torch.equal(adv.advantages(rewards_PG, settings), adv.advantages(rewards_PG.double(), settings).float())
