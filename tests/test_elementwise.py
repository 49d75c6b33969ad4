"""Norms and gates in few passes: their values, gradients, and what they keep for the backward pass."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from grpo.kernels.elementwise import gated_silu, rms_norm
from grpo.kernels.remade import remake, remaking


def test_rms_norm_by_hand() -> None:
    """Squares of 1, -1, 7 and 7 have the mean 25."""
    out = rms_norm(torch.tensor([[1.0, -1.0, 7.0, 7.0]]), torch.tensor([5.0, 10.0, 5.0, 0.0]), 0.0)
    assert out.tolist() == [[1.0, -2.0, 7.0, 0.0]]


def test_gated_silu_by_hand() -> None:
    """silu(0) is 0 and silu(ln 3) is 3/4 of ln 3."""
    ln3 = torch.tensor(3.0).log()
    out = gated_silu(torch.stack([torch.tensor(0.0), ln3]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(out, torch.stack([torch.tensor(0.0), 3 * ln3]))


def test_gradients() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    gate, up = torch.randn(2, 5, 6, dtype=torch.float64).unbind()
    for tensor in (hidden, weight, gate, up):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: rms_norm(h, w, 1e-3), (hidden, weight))
    assert torch.autograd.gradcheck(gated_silu, (gate, up))


class Layer:
    """Two products of a norm's output, and one of a gate's."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(10, 4, requires_grad=True)
        self.weights = [torch.randn(*size, requires_grad=True) for size in ((4,), (6, 4), (6, 4), (4, 6))]
        self.between: list[weakref.ref[Tensor]] = []

    def __call__(self) -> Tensor:
        """The layer's loss."""
        norm, up, gate, down = self.weights
        normed = rms_norm(self.hidden, norm, 1e-6)
        gated = gated_silu(normed @ gate.T, normed @ up.T)
        self.between = [weakref.ref(normed), weakref.ref(gated)]
        return (gated @ down.T).square().sum()

    def gradients(self) -> list[Tensor | None]:
        """By the input and the weights."""
        return [tensor.grad for tensor in (self.hidden, *self.weights)]


def test_what_products_need_is_not_kept_and_gradients_are_the_same_to_the_bit() -> None:
    keeping, remade = Layer(), Layer()
    loss = keeping()
    assert all(ref() is not None for ref in keeping.between)
    loss.backward()
    with remaking():
        loss = remade()
    assert all(ref() is None for ref in remade.between)
    loss.backward()
    for a, b in zip(remade.gradients(), keeping.gradients(), strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_a_tensor_is_made_once_for_all_that_wait_and_let_go() -> None:
    made = []
    source = torch.arange(3.0, requires_grad=True)

    def make() -> Tensor:
        made.append(1)
        return source.detach() * 2

    with remaking():
        doubled = remake(source * 2, make)
        loss = (doubled * doubled.detach().exp()).sum() + (doubled.view(3, 1) ** 2).sum() + doubled.square().sum()
    loss.backward()
    assert len(made) == 1
    by_hand = 2 * (torch.arange(3.0) * 2).exp() + 8 * torch.arange(3.0) + 8 * torch.arange(3.0)
    torch.testing.assert_close(source.grad, by_hand)


def test_a_tensor_that_was_written_to_is_kept_as_it_is() -> None:
    source = torch.ones(3, requires_grad=True)
    with remaking():
        doubled = remake(source * 2, lambda: torch.full((3,), torch.nan))
        doubled += 1
        doubled.square().sum().backward()
    assert source.grad is not None
    assert source.grad.tolist() == [12.0] * 3  # d (2x + 1)^2 / dx at 1


@pytest.mark.parametrize("within", [nullcontext, remaking])
def test_a_change_between_forward_and_backward_is_refused(within: Callable[[], AbstractContextManager[None]]) -> None:
    """As torch refuses it by itself: of an input, of a view's base, and of an output that its own gradient needs."""
    weight, source = torch.ones(3, requires_grad=True), torch.ones(2, 3)
    exponential = torch.ones(3, requires_grad=True)
    with within():
        losses = [(weight * source).sum(), (weight * source[0]).sum(), (out := exponential.exp()).sum()]
    source += 1
    with torch.no_grad():
        out.zero_()
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_an_output_that_its_own_gradient_needs_is_let_go_without_a_backward_pass() -> None:
    with remaking():
        out = torch.ones(3, requires_grad=True).exp()
    alive = weakref.ref(out)
    del out
    assert alive() is None
