"""Micro-batches side by side on a CPU: lanes of some threads each do more than all threads on one micro-batch.

What lies between two matrix products is too short to be shared out well; lanes share out whole passes. Gradients are
added in the order of the micro-batches, so that lanes change no sum.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Condition
from typing import TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

B = TypeVar("B")
R = TypeVar("R")
Work = Callable[[nn.Module, B], R]
"""Forward and backward pass of one micro-batch through a model, and what is to be said of it."""

LANES = 2
"""More would split groups, whose prompts are then computed again, and each keeps activations."""

SMALL = 16_000_000
"""Parameters of a model for which lanes pay: in smaller ones Python itself, of which only one lane runs, takes over."""


def lanes_for(model: nn.Module, device: torch.device, dropout: bool) -> int:
    """How many micro-batches to compute at a time.

    One on an accelerator; under LoRA, whose reference is the same model with its adapters off; and where units are
    dropped, because lanes would draw from one generator in no certain order.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    alone = device.type != "cpu" or isinstance(model, PeftModel) or (dropout and _drops(model)) or size < SMALL
    return 1 if alone else min(LANES, torch.get_num_threads())


def _drops(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    return any([*rates, getattr(config, "attention_dropout", 0.0)])


def side_by_side(model: nn.Module, batches: Sequence[B], work: Work[B, R], lanes: int) -> list[R]:
    """Do the work on every micro-batch, `lanes` at a time; gradients gather in `model`, in the batches' order."""
    if min(lanes, len(batches)) < 2:
        return [work(model, batch) for batch in batches]
    threads, turns = torch.get_num_threads(), _Turns(model)
    free: SimpleQueue[_Lane] = SimpleQueue()
    for _ in range(lanes):
        free.put(_Lane(model, turns))

    def run(number: int) -> R:
        lane = free.get()
        try:
            return lane.run(number, batches[number], work)
        finally:
            free.put(lane)

    try:
        with ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (max(1, threads // lanes),)) as pool:
            return list(pool.map(run, range(len(batches))))
    finally:
        torch.set_num_threads(threads)  # a lane's setting is also that of threads to come


class _Lane:
    """A copy of the model that shares its weights and has gradients of its own until it is its turn to add them."""

    def __init__(self, model: nn.Module, turns: "_Turns"):
        shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
        self._model = copy.deepcopy(model, {**shared, **{id(buffer): buffer for buffer in model.buffers()}})
        self._turns = turns
        self._number = 0
        self._added: set[int] = set()
        for place, parameter in enumerate(self._model.parameters()):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._adder(place))

    def run(self, number: int, batch: B, work: Work[B, R]) -> R:
        """Work on the micro-batch with this number."""
        self._number = number
        self._added.clear()
        try:
            result = work(self._model, batch)
            for place in set(range(self._turns.places)) - self._added:  # no gradient reached these
                self._turns.add(number, place, None)
        except BaseException:
            self._turns.give_up()
            raise
        return result

    def _adder(self, place: int) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            self._added.add(place)
            self._turns.add(self._number, place, gradient)

        return add


class _Turns:
    """Which micro-batch may add its gradient to each parameter: one after the other."""

    def __init__(self, model: nn.Module):
        self._parameters = list(model.parameters())
        self._next = [0] * len(self._parameters)
        self._moved = Condition()
        self._failed = False

    @property
    def places(self) -> int:
        """How many parameters there are."""
        return len(self._parameters)

    def add(self, number: int, place: int, gradient: Tensor | None) -> None:
        """Wait for the micro-batches before this one, then add."""
        with self._moved:
            self._moved.wait_for(lambda: self._failed or self._next[place] == number)
            if self._next[place] != number:
                raise RuntimeError("another micro-batch of the step failed")
        if gradient is not None:
            parameter = self._parameters[place]
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        with self._moved:
            self._next[place] += 1
            self._moved.notify_all()

    def give_up(self) -> None:
        """Let nobody wait for a micro-batch that will never come."""
        with self._moved:
            self._failed = True
            self._moved.notify_all()
