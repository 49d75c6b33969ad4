"""The optimizer step: gradients summed over micro-batches and processes, checked, clipped and applied.

A gradient is the sum over all tokens of a minibatch, whoever computes them, so that no split into micro-batches or
processes changes it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from grpo.activations import recompute_layers
from grpo.experts.health import LOAD, router_figures
from grpo.experts.observe import bias_buffers
from grpo.experts.terms import bias_range, require_routers, step_biases
from grpo.fp8 import Switch, use_fp8
from grpo.kernels.remade import remaking
from grpo.mtp import own_parameters
from grpo.optimizer import learning_rate, make_optimizer
from grpo.processor import multiplies_bfloat16
from grpo.tally import Tally
from grpo.training_settings import TrainingSettings
from grpo.types import TrainingFailure

B = TypeVar("B")
Objective = Callable[[nn.Module, B], tuple[Tensor, Tally]]
"""From the model and one micro-batch to its share of the minibatch's loss, and figures about its tokens."""


class Learner:
    """A model with its optimizer, and how far they have come. The only place where weights change.

    Dropout belongs to supervised training: a policy that drops units is not the one that sampled, and its ratio to it
    is noise.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        total_steps: int,
        accelerator: Accelerator,
        dropout: bool = False,
    ):
        require_routers(model, settings.experts)
        self.model = model
        self.dropout = dropout
        self.settings = settings
        self.total_steps = total_steps
        self.accelerator = accelerator
        self.optimizer = make_optimizer(model, settings)
        self.fp8 = Switch()
        self.notes = [
            *_lost_updates(self.trainable()),
            *_lost_adapters(model),
            *_slow_products(settings, accelerator.device),
        ]
        if settings.precision == "fp8_block":
            self.notes += use_fp8(model, self.fp8)
        if settings.activations == "recompute":
            recompute_layers(model)
        if settings.activations == "offload" and accelerator.device.type == "cpu":
            self.notes.append("activations: offload moves nothing here: they are in the CPU's memory already")
        self.bad_steps_in_a_row = 0

    @contextmanager
    def autocast(self, fp8: bool = True) -> Iterator[None]:
        """The precision of forward passes; without FP8, that of sampling."""
        device, rounds = self.accelerator.device.type, self.settings.precision != "fp32"
        with torch.autocast(device, torch.bfloat16, enabled=rounds), self.fp8.on() if fp8 else nullcontext():
            yield

    def activations(self) -> AbstractContextManager[object]:
        """Where what the backward pass needs is kept during the forward pass."""
        device = self.accelerator.device.type
        if self.settings.activations == "offload" and device != "cpu":
            return torch.autograd.graph.save_on_cpu(pin_memory=device == "cuda")
        return nullcontext() if self.settings.activations == "recompute" else remaking()

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for p in self.model.parameters() if p.requires_grad]


def _lost_updates(trained: Sequence[nn.Parameter]) -> list[str]:
    """A note for the user where weights themselves, and not adapters of theirs in float32, are moved in bfloat16."""
    if all(parameter.dtype != torch.bfloat16 for parameter in trained):
        return []
    return [
        "weights are trained in bfloat16: an update smaller than 1/256 of a weight is lost; model.dtype: float32 with "
        "a stage's precision: bf16 keeps it"
    ]


def _lost_adapters(model: nn.Module) -> list[str]:
    """A note for the user where adapters are added to weights in bfloat16 before anything is multiplied by them."""
    wrapped = [layer for layer in model.modules() if isinstance(layer, ParamWrapper)]
    if all(layer.get_param().dtype != torch.bfloat16 for layer in wrapped):
        return []
    return [
        "adapters of experts are added to weights in bfloat16 in every forward pass: a change below 1/512 of a weight "
        "does nothing; model.dtype: float32 keeps it"
    ]


def _slow_products(settings: TrainingSettings, device: torch.device) -> list[str]:
    """A note for the user where bfloat16 makes a step slower."""
    if settings.precision != "bf16" or device.type != "cpu" or multiplies_bfloat16() is not False:
        return []
    return ["precision: bf16 is slower than fp32 here: the processor has no instructions for it"]


def train_step(learner: Learner, batches: Sequence[B], objective: Objective[B], step: int) -> Tally:
    """One update from the micro-batches of a minibatch, shared out over the processes.

    `step` (from 0) sets the learning rate. A loss or gradient that is not finite changes nothing and is counted as
    `skipped`.

    Raises:
        TrainingFailure: `max_bad_steps` such steps in a row.
    """
    tally = Tally()
    if not batches:
        return tally.add("no_signal", 1.0).add("loss", 0.0)
    learner.model.train(learner.dropout)
    learner.optimizer.zero_grad(set_to_none=True)
    here = learner.accelerator.process_index
    for batch in batches[here :: learner.accelerator.num_processes]:
        with learner.autocast(), learner.activations():
            loss, figures = objective(learner.model, batch)
        with learner.fp8.on():  # also for layers that are computed again
            loss.backward()
        tally.merge(figures.add("loss", loss.item()))
    _sum_gradients(learner)
    return _balance(learner, _apply(learner, step, everyones(tally, learner.accelerator)))


def _sum_gradients(learner: Learner) -> None:
    """Over the processes; a parameter that no token reached has gradient 0, however many processes there are."""
    for parameter in learner.trainable():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        alone = learner.accelerator.num_processes == 1
        parameter.grad = gradient if alone else learner.accelerator.reduce(gradient, "sum")


def everyones(tally: Tally, accelerator: Accelerator) -> Tally:
    """The sum of every process's tally."""
    if accelerator.num_processes == 1:
        return tally
    everyone = Tally()
    for part in gather_object([tally]):
        everyone.merge(part)
    return everyone


def _clip(learner: Learner) -> tuple[float, float | None]:
    """Clip the gradient, and that of a predictor by itself: it must not decide how far the policy moves.

    Returns the norms before, the second one None without a predictor that is trained.
    """
    apart = {id(parameter) for parameter in own_parameters(learner.model)}
    trunk = [parameter for parameter in learner.trainable() if id(parameter) not in apart]
    own = [parameter for parameter in learner.trainable() if id(parameter) in apart]
    most = learner.settings.max_grad_norm
    norm = nn.utils.clip_grad_norm_(trunk, most).item()
    return norm, nn.utils.clip_grad_norm_(own, most).item() if own else None


def _apply(learner: Learner, step: int, tally: Tally) -> Tally:
    """Clip and step, unless something is not finite."""
    norm, mtp_norm = _clip(learner)
    rate = learning_rate(learner.settings, step, learner.total_steps)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    tally.mean("grad_norm", norm).mean("lr", rate)
    if mtp_norm is not None:
        tally.mean("mtp/grad_norm", mtp_norm)
    if math.isfinite(norm + (mtp_norm or 0.0)) and math.isfinite(tally.figures()["loss"]):
        learner.bad_steps_in_a_row = 0
        learner.optimizer.step()
        return tally.add("skipped", 0.0)
    learner.bad_steps_in_a_row += 1
    if learner.bad_steps_in_a_row >= learner.settings.max_bad_steps:
        raise TrainingFailure(
            f"step {step + 1}: the loss or gradient was not finite {learner.bad_steps_in_a_row} times in a row "
            f"(gradient norm {norm}); lower lr or max_grad_norm, or look at the samples of the last steps"
        )
    return tally.add("skipped", 1.0)


def _balance(learner: Learner, tally: Tally) -> Tally:
    """Move the routers' biases against the load of the update, if it was one, and add the routers' figures."""
    rate = learner.settings.experts.bias_update_rate
    if LOAD in tally.tensors:
        if rate and not tally.sums["skipped"]:
            step_biases(learner.model, tally.tensors[LOAD], rate)
        if bias_buffers(learner.model):
            tally.mean("router/bias_range", bias_range(learner.model))
    for name, value in router_figures(tally.tensors).items():
        tally.mean(name, value)
    return tally
