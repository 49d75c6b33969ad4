"""AdamW and its learning-rate schedule."""

import math

import torch
from torch import nn

from grpo.recipe import TrainingSettings


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.lr, betas=betas, eps=settings.adam_epsilon)


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
