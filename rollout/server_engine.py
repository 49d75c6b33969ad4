"""vLLM on servers: completions are shared out by load, and a server that dies or hangs costs no answer."""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from torch import nn
from transformers import PreTrainedTokenizerBase

from grpo.engine_settings import ServerSettings
from grpo.families import EngineOptions
from grpo.rollout.engine import ReplicaLost, Sampler, SampleRequest, Sampling
from grpo.rollout.file_sender import FileSender
from grpo.rollout.native_sender import NativeSender
from grpo.rollout.server_client import Row, ServerDown, ServerRefused, ServerSilent
from grpo.rollout.server_pool import Server, ServerPool
from grpo.rollout.transfer import REMEDY
from grpo.rollout.vllm_requests import Reader
from grpo.types import Completion, TrainingFailure


@dataclass
class _Errand:
    """Completions to sample: `missing` holds the numbers of rows that nobody works on, `done` what has come back.

    Those of a `check` are few, and no sign that a server bears a rollout.
    """

    rows: Sequence[Row]
    sampling: Sampling
    missing: deque[int]
    check: bool = False
    done: dict[int, Completion] = field(default_factory=dict)

    @classmethod
    def of(cls, requests: Sequence[SampleRequest], sampling: Sampling, check: bool = False) -> "_Errand":
        rows = [(request.prompt_ids, seed) for request in requests for seed in request.seeds]
        return cls(rows, sampling, deque(range(len(rows))), check)

    def answers(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """By request, in order."""
        completions = iter([self.done[number] for number in range(len(self.rows))])
        return [[next(completions) for _ in request.seeds] for request in requests]


class ServerEngine:
    """Samples on several servers: what one answers depends on the seed as ever, which of them answers on their load."""

    def __init__(
        self,
        settings: ServerSettings,
        options: EngineOptions,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Sequence[int],
        logs: Path,
    ):
        self._settings = settings
        self._concurrent = options.arguments["max_num_seqs"]
        self._reader = Reader(tokenizer, eos_ids)
        self._eos_ids = tuple(eos_ids)
        self._run = uuid.uuid4().hex
        self._version = 0
        self._check: Callable[[Sampler], None] = _unchecked
        self._pool = ServerPool(settings, options, logs)
        way = self._pool.way
        self._weights = FileSender(settings.folder, logs) if way == "file" else NativeSender(way)

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """Return, for every request in order, one completion per seed in order, each sampled exactly once.

        Raises:
            EngineLost: no server is left.
        """
        self._reader.check(sampling)
        errand = _Errand.of(requests, sampling)
        while len(errand.done) < len(errand.rows):
            asyncio.run(self._round(self._ready(), errand))
        return errand.answers(requests)

    def generate_on(
        self, server: Server, requests: Sequence[SampleRequest], sampling: Sampling
    ) -> list[list[Completion]]:
        """As `generate`, on one server, to check it. Raises ReplicaLost when it dies."""
        errand = _Errand.of(requests, sampling, check=True)
        asyncio.run(self._round([server], errand))
        if len(errand.done) < len(errand.rows):
            raise ReplicaLost(server.client.url)
        return errand.answers(requests)

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Let every server take the weights."""
        self._weights.hold(model)
        self._version = version
        for server in self._pool.servers:
            server.weights = None
        for server in self._pool.wait(1):
            self._give_weights(server)

    def replicas(self) -> Sequence[Sampler]:
        """Every live server by itself."""
        return [_OneServer(self, server) for server in self._ready()]

    def check_with(self, check: Callable[[Sampler], None]) -> None:
        """Have `check` judge a server that is given the weights by itself, since no other is left."""
        self._check = check

    def rest(self) -> None:
        """Servers have memory of their own."""

    def close(self) -> None:
        """End the servers that were started here, and take the weights out of memory."""
        self._weights.close()
        self._pool.close()

    @property
    def _label(self) -> str:
        """Of the weights, unlike that of any other run that uses the same servers."""
        return f"{self._run}-{self._version}"

    def _ready(self) -> list[Server]:
        """The live servers that have the current weights, verified.

        One that has come back since the last push gets them with the next; at once where no other is left.
        """
        while True:
            live = self._pool.wait(1)
            ready = [server for server in live if server.weights == self._label]
            if ready:
                return ready
            self._give_weights(live[0])
            self._check_one(live[0])

    def _check_one(self, server: Server) -> None:
        """Have a server checked that got the weights by itself, if it did."""
        if server.weights == self._label:
            with suppress(ReplicaLost):
                self._check(_OneServer(self, server))

    def _give_weights(self, server: Server) -> None:
        try:
            self._weights.give(server.client, self._label)
        except ServerDown as error:
            self._pool.bury(server, str(error))
        except ServerRefused as error:
            if not server.client.is_up():
                self._pool.bury(server, str(error))
                return
            raise TrainingFailure(
                f"{server.client.url} does not take the weights: {error}; {REMEDY[self._pool.way]}"
            ) from None
        else:
            server.weights = self._label

    async def _round(self, servers: Sequence[Server], errand: _Errand) -> None:
        """Let the servers work through what is missing; what a server that dies had begun goes back to the others."""
        share = -(-len(errand.missing) // len(servers))
        workers = min(self._concurrent, share)
        await asyncio.gather(*(self._drive(server, errand, workers) for server in servers))

    async def _drive(self, server: Server, errand: _Errand, workers: int) -> None:
        async with server.client.session() as session:
            work = [asyncio.create_task(self._work(server, session, errand)) for _ in range(workers)]
            watch = asyncio.create_task(watch_over(server, session, errand.rows[0][0][0], self._settings.deadline_s))
            try:
                await _first_failure(work, watch)
            except ServerDown as error:
                self._pool.bury(server, str(error))
            except ServerRefused as error:
                raise TrainingFailure(
                    f"{server.client.url} refused a prompt: {error}: see that it was started for this model, by "
                    "grpo serve"
                ) from None

    async def _work(self, server: Server, session: httpx2.AsyncClient, errand: _Errand) -> None:
        while errand.missing:
            number = errand.missing.popleft()
            try:
                sampled = await server.client.sample(session, errand.rows[number], errand.sampling, self._eos_ids)
            except BaseException:
                errand.missing.append(number)
                raise
            errand.done[number] = self._reader.completion(sampled, errand.sampling, self._version, self._label)
            server.served(errand.check)


class _OneServer:
    """One server of the engine, sampling alone."""

    def __init__(self, engine: ServerEngine, server: Server):
        self._engine = engine
        self._server = server

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """As the engine's. Raises ReplicaLost when the server dies meanwhile."""
        return self._engine.generate_on(self._server, requests, sampling)


def _unchecked(replica: Sampler) -> None:
    """Before the first push there is nothing to hold a server to."""


async def watch_over(server: Server, session: httpx2.AsyncClient, token: int, deadline_s: float) -> None:
    """Ask for a sign of life again and again; raises ServerDown when neither it nor a completion comes in time.

    Where the engine's cache is full, the question waits until one of the completions before it has ended.
    """
    while True:
        before = server.completions
        try:
            await server.client.alive(session, token)
        except ServerSilent:
            if server.completions == before:
                raise
        await asyncio.sleep(min(5.0, deadline_s / 4))


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
