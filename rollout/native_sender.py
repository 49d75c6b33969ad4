"""Weights by vLLM's own transfer engines: from the learner's GPU to a server, no copy in the host's memory.

`ipc` packs them into one buffer of the learner's GPU that the server on the same GPU reads; `nccl` broadcasts them to
a server's GPUs. Either goes in chunks, so that it takes little more memory than the largest weight.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from grpo.checkpoint_names import checkpoint_tensors
from grpo.rollout.ipc_handles import handles_to_json
from grpo.rollout.server_client import LOAD_S, ServerClient, ServerDown, ServerRefused

CHUNK_BYTES = 256 * 2**20
"""Of a packed buffer: large enough for full speed, small beside a GPU's memory."""


class Described(NamedTuple):
    """A weight as the other side is told of it before it comes. Names are those that vLLM's engines read."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class PolicySource:
    """The policy as vLLM's engines read it: first names, dtypes and shapes of all weights, then they in that order."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def metadata(self) -> list[Described]:
        """What is to come."""
        return [Described(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights."""
        return iter([(name, tensor.detach()) for name, tensor in self.tensors.items()])

    def chunk_bytes(self) -> int:
        """The size of a buffer that holds every single weight."""
        return max([CHUNK_BYTES, *(tensor.nbytes for tensor in self.tensors.values())])


class TransferClient:
    """A server as vLLM's engines on the learner's side call it, with our key. The first failure is in `failure`.

    An engine may wait for its GPU for ever when the server has failed; who started it watches `failure`.
    """

    def __init__(self, client: ServerClient):
        self._client = client
        self.failure: Future[None] = Future()

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Agree on the wire; with NCCL, meet the learner."""
        self._ask("/shutdown_weight_transfer_engine", {})  # what an earlier learner left
        self._ask("/init_weight_transfer_engine", {"init_info": dict(init_info)})

    def start_weight_update(self) -> None:
        """Begin to take weights."""
        self._ask("/start_weight_update", {})

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Take a chunk."""
        if "ipc_handles" in update_info:
            update = {**update_info, "ipc_handles": handles_to_json(update_info["ipc_handles"])}
            update.pop("ipc_handles_pickled", None)
            self._ask("/collective_rpc", {"method": "update_by_handles", "args": [update]})
        else:
            self._ask("/update_weights", {"update_info": dict(update_info)})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Pack what was taken."""
        self._ask("/finish_weight_update", {})

    def _ask(self, path: str, body: Any) -> None:
        try:
            self._client.ask(path, body)
        except (ServerDown, ServerRefused) as error:
            if not self.failure.done():
                self.failure.set_exception(error)
            raise


class Link:
    """A server that was met, and vLLM's engine on this side."""

    def __init__(self, way: Literal["ipc", "nccl"], client: ServerClient, source: PolicySource, device: torch.device):
        self._way = way
        self._client = client
        self._transfer = TransferClient(client)
        self._source = source
        self._device = device
        self._engine: Any = None

    def send(self, tensors: Mapping[str, Tensor]) -> None:
        """Send weights. Raises ServerDown or ServerRefused, and the link is of no use afterwards."""
        self._source.tensors = tensors
        torch.cuda.synchronize(self._device)  # vLLM packs on streams of its own, which wait for nobody
        try:
            run_watched(self._meet_and_send, self._transfer.failure)
        except (RuntimeError, ValueError) as error:  # of NCCL and CUDA, and of vLLM about what it was given
            raise ServerRefused(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error

    def close(self) -> None:
        """Give up the connection, also one that waits for a server that is gone."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _meet_and_send(self) -> None:
        with torch.cuda.device(self._device):
            if self._engine is None:
                self._engine = self._meet()
            self._engine.send_weights()

    def _meet(self) -> Any:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        info = ipc_info(self._source) if self._way == "ipc" else nccl_info(self._source, self._client)
        engine = WeightTransferTrainerFactory.trainer_init(info, client=self._transfer, source=self._source)  # type: ignore[arg-type]  # a source by its methods
        if self._way == "nccl" and engine.model_update_group.disabled:  # type: ignore[attr-defined]
            raise RuntimeError("NCCL's library does not load here, or VLLM_DISABLE_PYNCCL is set")
        return engine


class NativeSender:
    """Sends the policy to each server through a link of its own, so that one that dies takes no other with it."""

    def __init__(self, way: Literal["ipc", "nccl"]):
        self._way = way
        self._links: dict[str, Link] = {}

    def hold(self, model: nn.Module) -> None:
        """Remember whose weights are sent. They are read when a server takes them, before the model trains on."""
        self._model = model

    def give(self, client: ServerClient, label: str) -> None:
        """Let a server take the weights and call them `label`. Raises ServerDown or ServerRefused."""
        known = client.url in self._links
        try:
            self._send(client)
        except ServerRefused:
            if not known:
                raise
            self._send(client)  # one that was started again has not met this learner
        client.name_weights(label)

    def _send(self, client: ServerClient) -> None:
        device = next(self._model.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in checkpoint_tensors(self._model).items()}
        link = self._links.setdefault(client.url, Link(self._way, client, PolicySource(tensors), device))
        try:
            link.send(tensors)
        except (ServerDown, ServerRefused):
            self._links.pop(client.url).close()
            raise

    def close(self) -> None:
        """Give up all links."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def ipc_info(source: PolicySource) -> Any:
    """How vLLM's engine `ipc` is to send."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    return IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=source.chunk_bytes())


def nccl_info(source: PolicySource, client: ServerClient) -> Any:
    """How vLLM's engine `nccl` is to meet a server and send: the learner is rank 0, the server's workers follow."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    host, port = address_towards(client.url)
    return NCCLTrainerInitInfo(
        rank=0,
        master_address=host,
        master_port=port,
        world_size=1 + client.describe()["workers"],
        packed=True,
        packed_buffer_size_bytes=source.chunk_bytes(),
    )


def address_towards(url: str) -> tuple[str, int]:
    """An address of this machine that a server can reach, and a port of it that is free."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "127.0.0.1", parts.port or 80))  # sends nothing
        host = str(probe.getsockname()[0])
    with socket.socket() as free:
        free.bind((host, 0))
        return host, int(free.getsockname()[1])


def run_watched(action: Callable[[], None], failure: "Future[None]", seconds: float = LOAD_S) -> None:
    """Run something that may never return, in a thread that is left behind when `failure` comes first or time is up.

    Raises whatever the action raised, the failure, or ServerDown.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            action()
            done.set_result(None)
        except BaseException as error:  # whatever it is belongs to who waits
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    finished, _ = wait([done, failure], timeout=seconds, return_when=FIRST_COMPLETED)
    if done in finished:
        done.result()
    elif failure in finished:
        failure.result()
    else:
        raise ServerDown(f"weights were not taken within {seconds:g} s")
