"""Micro-batches side by side: the same gradients as one after the other, whatever comes first."""

import time

import pytest
import torch
from torch import Tensor, nn

from grpo.lanes import side_by_side


class Net(nn.Module):
    """A tied layer used twice and one that only some micro-batches reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.rare = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, input: Tensor, rare: bool) -> Tensor:
        """The rare layer's output is added where asked for."""
        hidden = self.again(self.first(input).tanh())
        return self.frozen(hidden + self.rare(hidden) if rare else hidden)


def work(model: nn.Module, batch: tuple[Tensor, bool, float]) -> float:
    """A loss whose size differs by orders from batch to batch, so that another order of addition would show."""
    input, rare, wait = batch
    loss = model(input, rare).square().sum()
    time.sleep(wait)
    loss.backward()
    return float(loss.detach())


def batches() -> list[tuple[Tensor, bool, float]]:
    """The first ones are the slowest."""
    torch.manual_seed(1)
    return [(torch.randn(3, 4) * 10.0 ** (i % 4), i % 2 == 1, 0.02 * (6 - i) / 6) for i in range(6)]


@pytest.mark.parametrize("lanes", [2, 3, 8])
def test_gradients_are_the_same_to_the_bit_and_results_in_order(lanes: int) -> None:
    alone, together = Net(), Net()
    losses = [work(alone, batch) for batch in batches()]
    assert side_by_side(together, batches(), work, lanes) == losses
    for (name, a), b in zip(alone.named_parameters(), together.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == name.startswith("frozen")
        assert a.grad is None or torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_gradients_are_added_to_those_that_are_there() -> None:
    net = Net()
    side_by_side(net, batches()[:2], work, 2)
    once = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    side_by_side(net, batches()[:2], work, 2)
    twice = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.allclose(2 * a, b) for a, b in zip(once, twice, strict=True))


def test_a_failure_ends_all_lanes_and_is_the_one_that_is_told() -> None:
    def failing(model: nn.Module, batch: tuple[Tensor, bool, float]) -> float:
        if batch[1]:
            raise ValueError("the second batch")
        return work(model, batch)

    threads = torch.get_num_threads()
    with pytest.raises((ValueError, RuntimeError), match="the second batch"):
        side_by_side(Net(), batches(), failing, 2)
    assert torch.get_num_threads() == threads
