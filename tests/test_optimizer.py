import math
import os
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import nn

from grpo.optimizer import learning_rate, make_optimizer
from grpo.training_settings import TrainingSettings

SCHEDULES = ["constant", "linear", "cosine"]


def settings(**values: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"lr": 1.0, **values})


def rates(steps: int, **values: object) -> list[float]:
    return [learning_rate(settings(**values), step, steps) for step in range(steps)]


def test_rates_by_hand() -> None:
    assert rates(5, warmup_steps=2, lr_schedule="linear") == pytest.approx([1 / 2, 1, 2 / 3, 1 / 3, 0])
    assert rates(5, lr_schedule="linear") == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4, 0])
    half = math.sqrt(0.5)
    assert rates(5, lr_schedule="cosine") == pytest.approx([1, (1 + half) / 2, 1 / 2, (1 - half) / 2, 0])
    assert rates(3, lr_schedule="linear", lr_floor=0.1) == pytest.approx([1, 0.55, 0.1])
    assert rates(4, warmup_steps=4) == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1])
    assert rates(3, lr=2e-6) == [2e-6] * 3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_warm_up_rises_to_the_peak_and_the_schedule_falls_from_it(schedule: str, warmup: int) -> None:
    steps = 200
    floor = 0.0 if schedule == "constant" else 0.2
    values = rates(steps, lr=0.5, warmup_steps=warmup, lr_schedule=schedule, lr_floor=floor)
    peak = max(warmup - 1, 0)
    assert values[0] > 0
    assert values[peak] == max(values) == 0.5
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values[peak] - values[peak + 1] < 0.01  # no jump where warm-up ends
    assert values[-1] == pytest.approx(0.5 if schedule == "constant" else 0.1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_step_and_a_warm_up_longer_than_the_run(schedule: str) -> None:
    assert rates(1, lr_schedule=schedule) == [1.0]
    assert rates(2, lr_schedule=schedule, warmup_steps=4) == [0.25, 0.5]


def test_weight_decay_moves_matrices_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = make_optimizer(model, settings(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        left = 1 - 0.1 * 0.5 if parameter.ndim == 2 else 1.0
        assert torch.allclose(parameter, before[name] * left), name


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LayerNorm(2))
    model[0].requires_grad_(False)
    groups = make_optimizer(model, settings()).param_groups
    assert [p.shape for group in groups for p in group["params"]] == [(2,), (2,)]


def test_adamw_in_8_bits_goes_on_from_what_a_checkpoint_holds() -> None:
    """Its moments are bytes with a scale for each block: a quarter of the memory, within a thousandth of a step."""
    if not os.environ.get("CI"):
        pytest.importorskip("bitsandbytes")

    def steps(optimizer: str, count: int, model: nn.Linear, state: Any = None) -> Any:
        made = make_optimizer(model, settings(lr=1e-2, optimizer=optimizer))
        if state is not None:
            file = BytesIO()
            torch.save(state, file)
            file.seek(0)
            made.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(count):
            model.weight.grad = torch.linspace(-1, 1, model.weight.numel()).view_as(model.weight)
            made.step()
        return made.state_dict()

    models = [nn.Linear(128, 64, bias=False) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    before = models[0].weight.detach().clone()
    steps("adamw", 4, models[0])
    state = steps("adamw_8bit", 4, models[1])
    steps("adamw_8bit", 2, models[2], steps("adamw_8bit", 2, models[2]))
    assert torch.equal(models[1].weight, models[2].weight)
    assert (models[0].weight - models[1].weight).abs().mean() < 0.05 * (models[0].weight - before).abs().mean()
    sizes = [t.numel() * t.element_size() for t in tensors(state) if t.numel() >= 128 * 64]
    assert sizes == [128 * 64] * 2


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def test_the_recipe_s_numbers_reach_adamw() -> None:
    said = settings(lr=1e-3, beta1=0.8, beta2=0.95, adam_epsilon=1e-5)
    group = make_optimizer(nn.Linear(1, 1), said).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.95), 1e-5)
