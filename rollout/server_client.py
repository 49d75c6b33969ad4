"""One server: what it is asked over HTTP, and how it is told to be dead."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import httpx2
from httpx2 import HTTPError

from grpo.rollout.engine import Sampling
from grpo.rollout.vllm_requests import Sampled, sampling_arguments

CONNECT_S = 10.0
LOAD_S = 600.0
"""Seconds that taking new weights may take: a file of the largest models is read and packed anew."""
FORGET_S = 10.0
"""Seconds that emptying the prefix cache may take: completions that nobody waits for any more end within them."""

CLAMPED = -9999.0
"""What vLLM's server writes for a log-probability that JSON has no number for."""

Row = tuple[tuple[int, ...], int]
"""The ids of a prompt and the seed of one completion."""


class ServerDown(Exception):
    """A server does not answer."""


class ServerSilent(ServerDown):
    """A server does not answer in time."""


class ServerRefused(Exception):
    """A server answered that it will not do what it was asked: asking again would change nothing."""


class ServerClient:
    """A server by its URL. `deadline_s`: within this time a server that is alive gives a sign of life.

    It is reached as it is named: a proxy of the environment would get the key.
    """

    def __init__(self, url: str, key: str, deadline_s: float):
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._deadline_s = deadline_s

    def session(self) -> httpx2.AsyncClient:
        """Connections for one event loop. A completion may take as long as it takes; `alive` finds who hangs."""
        limits = httpx2.Limits(max_connections=None)
        timeout = httpx2.Timeout(None, connect=CONNECT_S)
        return httpx2.AsyncClient(
            base_url=self.url, headers=self._headers, timeout=timeout, limits=limits, trust_env=False
        )

    async def sample(
        self, session: httpx2.AsyncClient, row: Row, sampling: Sampling, eos_ids: Sequence[int]
    ) -> Sampled:
        """One completion. Raises ServerDown or ServerRefused."""
        prompt_ids, seed = row
        body = {"token_ids": list(prompt_ids), "sampling_params": sampling_arguments(sampling, seed, eos_ids)}
        answer = await _post(session, "/inference/v1/generate", body)
        try:
            (choice,) = answer["choices"]
            logprobs = [_unclamped(entry["logprob"]) for entry in choice["logprobs"]["content"]]
            versions = [span["version"] for span in choice["weight_versions"] or ()]
            return Sampled(choice["token_ids"], logprobs, choice["finish_reason"], versions)
        except (KeyError, TypeError, ValueError) as error:
            raise ServerRefused(f"its answer is not vLLM's: {type(error).__name__} {error}") from None

    async def alive(self, session: httpx2.AsyncClient, token: int) -> None:
        """Sample one token, so that server and engine both have shown that they work.

        Raises ServerDown, and where no answer comes in time, ServerSilent.
        """
        body = {"token_ids": [token], "sampling_params": {"max_tokens": 1, "temperature": 0.0, "detokenize": False}}
        try:
            # Python 3.11's wait_for loses a cancellation that comes with the answer, and watching would never end.
            async with asyncio.timeout(self._deadline_s):
                await _post(session, "/inference/v1/generate", body)
        except TimeoutError:
            raise ServerSilent(f"no sign of life within {self._deadline_s:g} s") from None

    def load(self, file: str, version: str) -> None:
        """Let the server take the weights of a file that it can read. Raises ServerDown or ServerRefused."""
        self.ask("/collective_rpc", {"method": "load_policy_file", "args": [file]})
        self.name_weights(version)

    def name_weights(self, version: str) -> None:
        """Let the server forget what older weights made and call the new ones `version`.

        It forgets nothing while somebody's completion holds on to it, and says so.

        Raises:
            ServerDown, ServerRefused: it does not answer, or does not forget.
        """
        until = time.monotonic() + FORGET_S
        while self.ask("/reset_prefix_cache", {}, final=False).get("success") is False:
            if time.monotonic() > until:
                raise ServerDown(
                    f"/reset_prefix_cache: completions held the cache for {FORGET_S:g} s: who samples on it?"
                )
            time.sleep(FORGET_S / 20)
        self.ask("/update_weight_version", {"new_version": version}, final=False)

    def describe(self) -> dict[str, Any]:
        """The server's dtype, longest sequence and places, the way that it takes weights, and its workers' GPUs.

        Raises ServerDown or ServerRefused.
        """
        workers = self.ask("/collective_rpc", {"method": "describe_policy"})["results"]
        gpus = tuple(worker["gpu"] for worker in workers if worker.get("gpu"))
        return {**workers[0], "gpus": gpus, "workers": len(workers)}

    def ask(self, path: str, body: Any, final: bool = True) -> Any:
        """The JSON of one answer that may take as long as new weights do. Raises ServerDown or ServerRefused."""
        return asyncio.run(self._ask(path, body, final))

    async def _ask(self, path: str, body: Any, final: bool) -> Any:
        async with self.session() as session:
            try:
                async with asyncio.timeout(LOAD_S):
                    return await _post(session, path, body, final)
            except TimeoutError:
                raise ServerDown(f"{path}: no answer within {LOAD_S:g} s") from None

    def is_up(self) -> bool:
        """Whether the server says that it is healthy and takes our key."""
        try:
            with httpx2.Client(base_url=self.url, headers=self._headers, timeout=CONNECT_S, trust_env=False) as session:
                return bool(session.get("/health").is_success and session.get("/weight_info").is_success)
        except (HTTPError, httpx2.InvalidURL):
            return False


def _unclamped(logprob: float) -> float:
    return -math.inf if logprob <= CLAMPED else logprob


async def _post(session: httpx2.AsyncClient, path: str, body: Any, final: bool = False) -> Any:
    """The answer's JSON. `final`: what fails inside the server would fail again."""
    try:
        answer = await session.post(path, json=body)
    except HTTPError as error:
        raise ServerDown(f"{path}: {type(error).__name__} {error}") from None
    if answer.is_server_error and not final:
        raise ServerDown(f"{path}: status {answer.status_code}: {answer.text[:300]}")
    if not answer.is_success:
        raise ServerRefused(f"{path}: status {answer.status_code}: {answer.text[:300]}")
    try:
        return answer.json() if answer.content else {}
    except ValueError:
        raise ServerRefused(f"{path}: expected JSON, got {answer.text[:100]!r}") from None
