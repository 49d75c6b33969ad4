"""Processes that learn together."""

import os

import torch


def meet_on_cpu() -> bool:
    """Whether this is one of several processes, as `torchrun` starts them, on a machine without a GPU.

    accelerate takes each of them for the only one unless it is told.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
