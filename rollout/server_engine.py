"""vLLM on servers: completions are shared out by load, and a server that dies or hangs costs no answer."""

import asyncio
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import httpx2
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from grpo.checkpoint_names import checkpoint_tensors
from grpo.engine_settings import EngineSettings
from grpo.families import EngineOptions
from grpo.rollout.engine import Sampler, SampleRequest, Sampling
from grpo.rollout.server_client import Row, ServerDown, ServerRefused
from grpo.rollout.server_pool import Server, ServerPool
from grpo.rollout.vllm_requests import Reader
from grpo.types import Completion, TrainingFailure

SHARED_MEMORY = Path("/dev/shm")


class ServerEngine:
    """Samples on several servers: what one answers depends on the seed as ever, which of them answers on their load."""

    def __init__(
        self,
        settings: EngineSettings,
        options: EngineOptions,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Sequence[int],
        logs: Path,
    ):
        assert settings.servers is not None  # the recipe has them with this engine
        self._settings = settings.servers
        self._concurrent = settings.max_concurrent
        self._reader = Reader(tokenizer, eos_ids)
        self._eos_ids = tuple(eos_ids)
        self._version = 0
        self._pool = ServerPool(self._settings, options, logs)
        self._weights = tempfile.TemporaryDirectory(prefix="grpo-weights-", dir=_weights_folder(self._settings.folder))

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """Return, for every request in order, one completion per seed in order, each sampled exactly once.

        Raises:
            EngineLost: no server is left.
        """
        return self._generate(requests, sampling, self._ready())

    def generate_first_on(
        self, server: Server, requests: Sequence[SampleRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        """As `generate`, on one server as long as it lives."""
        return self._generate(requests, sampling, [server])

    def _generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, servers: Sequence[Server]
    ) -> list[list[Completion]]:
        self._reader.check(sampling)
        rows = [(request.prompt_ids, seed) for request in requests for seed in request.seeds]
        done: dict[int, Completion] = {}
        while missing := deque(number for number in range(len(rows)) if number not in done):
            asyncio.run(self._round(servers, rows, missing, done, sampling))
            servers = servers if len(done) == len(rows) else self._ready()
        completions = iter([done[number] for number in range(len(rows))])
        return [[next(completions) for _ in request.seeds] for request in requests]

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Write the weights once, and let every server take them."""
        save_file({name: t.detach().cpu().contiguous() for name, t in checkpoint_tensors(model).items()}, self._file)
        self._version = version
        for server in self._pool.servers:
            server.version = None
        self._ready()

    def replicas(self) -> Sequence[Sampler]:
        """Every live server by itself."""
        return [_OneServer(self, server) for server in self._ready()]

    def rest(self) -> None:
        """Servers have memory of their own."""

    def close(self) -> None:
        """End the servers that were started here, and take the weights out of memory."""
        self._pool.close()
        self._weights.cleanup()

    @property
    def _file(self) -> Path:
        return Path(self._weights.name) / "weights.safetensors"

    def _ready(self) -> list[Server]:
        """The live servers, all with the current weights. Raises EngineLost when there is none."""
        while True:
            for server in self._pool.wait_for_one():
                if server.version != self._version:
                    self._give_weights(server)
            ready = [server for server in self._pool.servers if server.up and server.version == self._version]
            if ready:
                return ready

    def _give_weights(self, server: Server) -> None:
        try:
            server.client.load(str(self._file), self._version)
        except ServerDown as error:
            self._pool.bury(server, str(error))
        except ServerRefused as error:
            raise TrainingFailure(f"{server.client.url} does not take the policy's weights: {error}") from None
        else:
            server.version = self._version

    async def _round(
        self, servers: Sequence[Server], rows: Sequence[Row], missing: deque[int], done: dict[int, Completion],
        sampling: Sampling,
    ) -> None:  # fmt: skip
        """Let the servers work through what is missing; what a server that dies had begun goes back to the others."""

        async def drive(server: Server) -> None:
            await self._drive(server, rows, missing, done, sampling)

        await asyncio.gather(*map(drive, servers))

    async def _drive(
        self, server: Server, rows: Sequence[Row], missing: deque[int], done: dict[int, Completion], sampling: Sampling
    ) -> None:
        async with server.client.session() as session:
            workers = [
                asyncio.create_task(self._work(server, session, rows, missing, done, sampling))
                for _ in range(min(self._concurrent, len(missing)))
            ]
            watch = asyncio.create_task(self._watch(server, session, rows[0][0][0]))
            try:
                await _first_failure(workers, watch)
            except ServerDown as error:
                self._pool.bury(server, str(error))
            except ServerRefused as error:
                raise TrainingFailure(f"{server.client.url} refused a prompt: {error}") from None

    async def _work(
        self, server: Server, session: httpx2.AsyncClient, rows: Sequence[Row], missing: deque[int],
        done: dict[int, Completion], sampling: Sampling,
    ) -> None:  # fmt: skip
        while missing:
            number = missing.popleft()
            try:
                sampled = await server.client.sample(session, rows[number], sampling, self._eos_ids)
            except BaseException:
                missing.append(number)
                raise
            done[number] = self._reader.completion(sampled, sampling, self._version)

    async def _watch(self, server: Server, session: httpx2.AsyncClient, token: int) -> None:
        """Ask for a sign of life again and again; raises ServerDown when there is none in time."""
        while True:
            await server.client.alive(session, token)
            await asyncio.sleep(min(5.0, self._settings.deadline_s / 4))


class _OneServer:
    """One server of the engine, sampling alone."""

    def __init__(self, engine: ServerEngine, server: Server):
        self._engine = engine
        self._server = server

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """As the engine's. What a server that dies meanwhile had not answered, the others do."""
        return self._engine.generate_first_on(self._server, requests, sampling)


async def _first_failure(workers: Sequence["asyncio.Task[None]"], watch: "asyncio.Task[None]") -> None:
    """Wait until all work is done; a worker or watch that fails ends everything and is raised."""
    try:
        pending: set[asyncio.Task[None]] = {*workers, watch}
        while not all(worker.done() for worker in workers):
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
    finally:
        for task in (*workers, watch):
            task.cancel()
        await asyncio.gather(*workers, watch, return_exceptions=True)


def _weights_folder(folder: str | None) -> Path | None:
    """Where servers read weights: the recipe's folder, or this machine's shared memory."""
    return Path(folder) if folder is not None else SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
