"""AdamW and its learning-rate schedule."""

import math
from typing import Any

import torch
from torch import nn

from grpo.training_settings import TrainingSettings
from grpo.types import UserError


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; vectors (norms, biases) are not decayed.

    Raises:
        UserError: the recipe asks for 8 bits and the library for them is missing.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = settings.beta1, settings.beta2
    common: dict[str, Any] = {"lr": settings.lr, "betas": betas, "eps": settings.adam_epsilon}
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw_8bit":
        return _eight_bit()(groups, **common)
    return torch.optim.AdamW(groups, **common, fused=True)  # one pass over the weights: a tenth of a step's time


def _eight_bit() -> Any:
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer: adamw_8bit needs the package bitsandbytes: pip install 'grpo-train[8bit]', or say adamw"
        ) from None
    return AdamW8bit


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """The rate of the step with this number, counted from 0.

    Warm-up rises linearly and reaches `lr` at its last step, so that the very first step already learns; then the
    schedule falls to `lr_floor * lr` at the last step. With lr 1, warm-up 2, a linear schedule and 5 steps the rates
    are 1/2, 1, 2/3, 1/3, 0.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.lr
    peak = max(settings.warmup_steps - 1, 0)
    progress = min(1.0, (step - peak) / max(1, total_steps - 1 - peak))
    fall = 1 - progress if settings.lr_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.lr * (settings.lr_floor + (1 - settings.lr_floor) * fall)
