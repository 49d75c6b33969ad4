import math
from itertools import permutations

import pytest
import torch

from grpo.tally import Tally


def test_figures_by_hand() -> None:
    tally = Tally().add("tokens", 3).add("tokens", 4).mean("lr", 0.5).tokens("kl", torch.tensor([1.0, 2.0, 6.0]))
    tally.tokens("kl", torch.tensor([3.0])).maximum("gap", 0.2).maximum("gap", 0.1)
    assert tally.figures() == {"tokens": 7, "lr": 0.5, "kl": 3.0, "gap": 0.2}


def test_a_mean_over_nothing_is_left_out() -> None:
    assert Tally().tokens("kl", torch.zeros(0)).figures() == {}


def test_every_split_gives_the_same_figures() -> None:
    values = torch.tensor([1.0, -2.0, 4.0, 8.0, 0.5])

    def part(chunk: torch.Tensor) -> Tally:
        return Tally().tokens("mean", chunk).add("sum", chunk.sum().item()).maximum("max", chunk.max().item())

    whole = part(values).figures()
    for sizes in ([1, 4], [2, 3], [1, 1, 3]):
        for order in permutations(values.split(sizes)):
            merged = Tally()
            for chunk in order:
                merged.merge(part(chunk))
            assert merged.figures() == whole


@pytest.mark.parametrize("values", [(1.0, math.nan), (math.nan, 1.0), (1.0, math.nan, 2.0)])
def test_a_value_that_is_no_number_shows_in_whatever_order(values: tuple[float, ...]) -> None:
    tally = Tally()
    for value in values:
        tally.merge(Tally().maximum("max", value).add("sum", value).mean("mean", value))
    assert all(math.isnan(figure) for figure in tally.figures().values())


def test_merging_leaves_the_other_as_it_was() -> None:
    one, other = Tally().add("a", 1), Tally().add("a", 2).maximum("b", 3)
    one.merge(other).merge(other)
    assert other.figures() == {"a": 2, "b": 3}


def test_a_tally_keeps_no_graph() -> None:
    assert isinstance(Tally().tokens("kl", torch.ones(2, requires_grad=True)).figures()["kl"], float)
