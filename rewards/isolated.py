"""Calls a user's reward in a worker process that can be killed."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo.plugins import load_object
from grpo.rewards.pool import run_all


def call_by_name(reference: str, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """What the function that `reference` names returns. Runs in a worker, which imports the function once."""
    return _ready(reference, options)(**arguments)


def call_all(
    reference: str, options: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], seconds: float, max_bytes: int
) -> list[Any]:
    """What each call returned, or the exception in its place."""
    return run_all(call_by_name, [(reference, dict(options), dict(call)) for call in calls], seconds, max_bytes)


_INSTANCES: dict[tuple[str, str], Callable[..., Any]] = {}


def _ready(reference: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with its options, or the instance of a class that was made with them: one a worker."""
    key = reference, repr(sorted(options.items()))
    if key not in _INSTANCES:
        _INSTANCES[key] = _made(load_object(reference), options)
    return _INSTANCES[key]


def _made(found: Any, options: Mapping[str, Any]) -> Any:
    return found(**options) if inspect.isclass(found) else functools.partial(found, **options)
