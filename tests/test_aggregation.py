import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from grpo.loss_settings import Aggregation
from grpo.losses.aggregation import sequence_mean, sequence_sum, sequence_weights

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]
MODES = get_args(Aggregation)


def weights(lengths: list[int], trained: list[bool], mode: Aggregation, count_masked: bool = True) -> list[float]:
    return sequence_weights(torch.tensor(lengths), torch.tensor(trained), mode, 8, count_masked).tolist()


def test_weights_by_hand() -> None:
    both = [True, True]
    assert weights([2, 3], both, "seq-mean-token-mean") == pytest.approx([1 / 4, 1 / 6])
    assert weights([2, 3], both, "token-mean") == pytest.approx([1 / 5, 1 / 5])
    assert weights([2, 3], both, "seq-mean-token-sum") == pytest.approx([1 / 2, 1 / 2])
    assert weights([2, 3], both, "seq-mean-token-sum-norm") == pytest.approx([1 / 16, 1 / 16])


def test_a_masked_sequence_weighs_nothing_and_counts_if_asked() -> None:
    some = [True, False, True]
    assert weights([2, 3, 4], some, "seq-mean-token-mean") == pytest.approx([1 / 6, 0, 1 / 12])
    assert weights([2, 3, 4], some, "seq-mean-token-mean", False) == pytest.approx([1 / 4, 0, 1 / 8])
    assert weights([2, 3, 4], some, "seq-mean-token-sum-norm") == pytest.approx([1 / 24, 0, 1 / 24])
    assert weights([2, 3, 4], some, "seq-mean-token-sum-norm", False) == pytest.approx([1 / 16, 0, 1 / 16])
    for count_masked in (True, False):
        assert weights([2, 3, 4], some, "token-mean", count_masked) == pytest.approx([1 / 6, 0, 1 / 6])


@pytest.mark.parametrize(
    ("count_masked", "expected"), [(False, "divide_by_nonempty_sequences"), (True, "divide_by_all_sequences")]
)
def test_fully_masked_sequence(count_masked: bool, expected: str) -> None:
    vector = VECTORS["agg.fully_masked_sequence"]
    rows, mask = vector["inputs"]["per_token_loss"], vector["inputs"]["mask"]
    weights_B = weights([len(r) for r in rows], [any(m) for m in mask], "seq-mean-token-mean", count_masked)
    loss = sum(weight * sum(row) for weight, row in zip(weights_B, rows, strict=True))
    assert loss == pytest.approx(vector["expected"][expected], abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count_masked", [True, False])
def test_nothing_to_train_weighs_nothing(mode: Aggregation, count_masked: bool) -> None:
    assert weights([2, 0], [False, False], mode, count_masked) == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_completion_without_tokens_has_a_finite_weight(mode: Aggregation) -> None:
    result: Tensor = sequence_weights(torch.tensor([0, 2]), torch.tensor([True, True]), mode, 8)
    assert result.isfinite().all()


def test_mean_and_sum_over_sequences() -> None:
    values_N, sequence_N = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1])
    assert sequence_mean(values_N, sequence_N).tolist() == [2, 2, 5]
    assert sequence_sum(values_N, sequence_N, 3).tolist() == [4, 5, 0]


def test_a_number_may_be_missing_among_the_sequences() -> None:
    assert sequence_mean(torch.tensor([1.0, 3.0]), torch.tensor([2, 2])).tolist() == [2, 2]
