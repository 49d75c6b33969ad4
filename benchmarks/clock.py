"""Seconds of work on a device, which on a GPU goes on after the call that asked for it."""

import time
from collections.abc import Callable
from typing import Any

import torch


def now(device: str) -> float:
    """The time at which everything that was asked for is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], Any], device: str = "cpu") -> float:
    """What the work takes."""
    begin = now(device)
    work()
    return now(device) - begin
