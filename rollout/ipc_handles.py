"""The handle of a GPU buffer as JSON, so that no server has to unpickle what a client sends.

vLLM packs weights into one buffer of bytes and names it, by the id of its GPU, with the arguments of torch's
`rebuild_cuda_tensor`. Of these a flat buffer leaves eight open; the rest is known.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import torch
from torch.storage import TypedStorage

Handles = Mapping[str, tuple[Any, ...]]
"""The arguments of `rebuild_cuda_tensor` by the id of the GPU that holds the buffer."""

OPEN = {
    "device": 6,
    "handle": 7,
    "storage_bytes": 8,
    "storage_offset": 9,
    "counter": 11,
    "counter_offset": 12,
    "event": 13,
    "event_sync": 14,
}
"""Places in the arguments that differ between buffers."""


def handles_to_json(handles: Handles) -> dict[str, dict[str, Any]]:
    """What JSON can carry.

    Raises:
        ValueError: it is not the handle of a flat buffer of bytes, or torch's format has changed.
    """
    return {gpu: _to_json(arguments) for gpu, arguments in handles.items()}


def handles_from_json(found: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The inverse."""
    return {gpu: _arguments(one["bytes"], {name: _from_json(one[name]) for name in OPEN}) for gpu, one in found.items()}


def _to_json(arguments: tuple[Any, ...]) -> dict[str, Any]:
    try:
        values = {name: arguments[place] for name, place in OPEN.items()}
        size = int(arguments[1][0])
        flat = tuple(arguments) == _arguments(size, values)
    except (IndexError, TypeError):
        flat = False
    if not flat:
        raise ValueError(f"expected the handle of a flat buffer of bytes, got {arguments}")
    return {"bytes": size, **{name: _json_value(value) for name, value in values.items()}}


def _arguments(size: int, values: Mapping[str, Any]) -> tuple[Any, ...]:
    arguments: list[Any] = [
        torch.Tensor, torch.Size([size]), (1,), 0, TypedStorage, torch.uint8, None, None, None, None, False,
        None, None, None, None,
    ]  # fmt: skip
    for name, place in OPEN.items():
        arguments[place] = values[name]
    return tuple(arguments)


def _json_value(value: Any) -> Any:
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return b64decode(value["base64"], validate=True) if isinstance(value, Mapping) else value
