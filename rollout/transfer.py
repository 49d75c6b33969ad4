"""Which way weights take to servers: a file, one GPU's memory, or from GPU to GPU.

`ipc` and `nccl` are vLLM's own transfer engines. A server is started for one of them and can always read a file. Inside
the training process tensors are handed over as they are, which no way of a process's own could beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from grpo.engine_settings import ServerSettings
from grpo.families import EngineOptions
from grpo.rollout.vllm_options import on_cpu
from grpo.types import UserError

Way = Literal["file", "ipc", "nccl"]

WORDS: dict[Way, str] = {
    "file": "weights reach servers as a file",
    "ipc": "weights reach servers through the memory of the learner's GPU (CUDA IPC)",
    "nccl": "weights reach servers from GPU to GPU (NCCL)",
}

REMEDY: dict[Way, str] = {
    "file": "can it read that file? Set servers.folder to a folder that it sees too",
    "ipc": "its log says more; set servers.transfer: file to go by a file",
    "nccl": "its log says more; set servers.transfer: file to go by a file",
}


@dataclass(frozen=True)
class Place:
    """A running server: its name, the ids of the GPUs of its workers (none on a CPU), and what it was started for."""

    name: str
    gpus: tuple[str, ...]
    started_for: Way


def planned_way(settings: ServerSettings, cpu: bool) -> Way:
    """The way to servers that the run itself starts: with `ipc` on the learner's GPU, otherwise on GPUs of their own.

    Raises:
        UserError: the recipe asks for a way of GPUs and there is none.
    """
    check_way(settings, cpu)
    if settings.transfer == "auto":
        return "file" if cpu or settings.folder is not None else "nccl"
    return settings.transfer


def check_way(settings: ServerSettings, cpu: bool) -> None:
    """Raise UserError where a recipe asks for a way of GPUs, whosever servers it leads to, and the learner has none."""
    if settings.transfer in ("ipc", "nccl") and cpu:
        raise UserError(_impossible(settings.transfer, "needs GPUs, got none on this machine"))


def chosen_way(settings: ServerSettings, learner_gpu: str | None, places: Sequence[Place]) -> Way:
    """The way to servers that others started; auto: the first of ipc and nccl that every server can take.

    Raises:
        UserError: the recipe asks for a way that a server cannot take.
    """
    if settings.transfer == "file" or (settings.transfer == "auto" and settings.folder is not None):
        return "file"
    ways: tuple[Literal["ipc", "nccl"], ...] = ("ipc", "nccl") if settings.transfer == "auto" else (settings.transfer,)
    for way in ways:
        obstacles = [found for place in places if (found := _obstacle(way, learner_gpu, place))]
        if not obstacles:
            return way
        if settings.transfer != "auto":
            raise UserError(_impossible(way, obstacles[0]))
    return "file"


def with_way(options: EngineOptions, way: Way) -> EngineOptions:
    """The arguments of a server that is to take weights this way."""
    if way == "file":
        return options
    return replace(options, arguments={**options.arguments, "weight_transfer_config": {"backend": way}})


def learner_gpu() -> str | None:
    """The id of the learner's GPU, the same in every process of its machine; None on a CPU."""
    import torch

    if on_cpu():
        return None
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _obstacle(way: Literal["ipc", "nccl"], learner_gpu: str | None, place: Place) -> str | None:
    if learner_gpu is None:
        return "needs a learner on a GPU, got one on a CPU"
    if not place.gpus:
        return f"needs servers on GPUs, got {place.name} on a CPU"
    if way == "ipc" and place.gpus != (learner_gpu,):
        return f"needs servers on the learner's GPU alone, got {place.name} on {', '.join(place.gpus)}"
    if way == "nccl" and learner_gpu in place.gpus:
        return f"needs servers on other GPUs than the learner's, got {place.name} on the same"
    if place.started_for != way:
        return f"needs servers that grpo serve --transfer {way} started, got {place.name} started for {_said(place)}"
    return None


def _said(place: Place) -> str:
    return "files alone" if place.started_for == "file" else place.started_for


def _impossible(way: Way, why: str) -> str:
    return f"rollout.servers.transfer: {way} {why}: change that, or set transfer: auto"
