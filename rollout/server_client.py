"""One server: what it is asked over HTTP, and how it is told to be dead."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
from httpx2 import HTTPError

from grpo.rollout.engine import Sampling
from grpo.rollout.vllm_requests import Sampled, sampling_arguments

CONNECT_S = 10.0

Row = tuple[tuple[int, ...], int]
"""The ids of a prompt and the seed of one completion."""


class ServerDown(Exception):
    """A server does not answer, or does not answer in time."""


class ServerRefused(Exception):
    """A server answered that it will not do what it was asked: the same everywhere, so no other one is tried."""


class ServerClient:
    """A server by its URL. `deadline_s`: within this time a server that is alive gives a sign of life."""

    def __init__(self, url: str, key: str, deadline_s: float):
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._deadline_s = deadline_s

    def session(self) -> httpx2.AsyncClient:
        """Connections for one event loop. A completion may take as long as it takes; `alive` finds who hangs."""
        limits = httpx2.Limits(max_connections=None)
        timeout = httpx2.Timeout(None, connect=CONNECT_S)
        return httpx2.AsyncClient(base_url=self.url, headers=self._headers, timeout=timeout, limits=limits)

    async def sample(
        self, session: httpx2.AsyncClient, row: Row, sampling: Sampling, eos_ids: Sequence[int]
    ) -> Sampled:
        """One completion. Raises ServerDown or ServerRefused."""
        prompt_ids, seed = row
        body = {"token_ids": list(prompt_ids), "sampling_params": sampling_arguments(sampling, seed, eos_ids)}
        answer = await _post(session, "/inference/v1/generate", body)
        (choice,) = answer["choices"]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        versions = [span["version"] for span in choice["weight_versions"] or ()]
        return Sampled(choice["token_ids"], logprobs, choice["finish_reason"], versions)

    async def alive(self, session: httpx2.AsyncClient, token: int) -> None:
        """Sample one token, so that server and engine both have shown that they work. Raises ServerDown."""
        body = {"token_ids": [token], "sampling_params": {"max_tokens": 1, "temperature": 0.0, "detokenize": False}}
        try:
            await asyncio.wait_for(_post(session, "/inference/v1/generate", body), self._deadline_s)
        except TimeoutError:
            raise ServerDown(f"no sign of life within {self._deadline_s:g} s") from None

    def load(self, file: str, version: int) -> None:
        """Let the server take the weights of a file that it can read. Raises ServerDown or ServerRefused."""
        asyncio.run(self._load(file, version))

    async def _load(self, file: str, version: int) -> None:
        async with self.session() as session:
            try:
                async with asyncio.timeout(max(self._deadline_s, 60.0)):
                    await _post(session, "/collective_rpc", {"method": "load_policy_file", "args": [file]})
                    await _post(session, "/reset_prefix_cache", {})
                    await _post(session, "/update_weight_version", {"new_version": str(version)})
            except TimeoutError:
                raise ServerDown("weights were not taken in time") from None

    def is_up(self) -> bool:
        """Whether the server says that it is healthy and takes our key."""
        try:
            with httpx2.Client(base_url=self.url, headers=self._headers, timeout=CONNECT_S) as session:
                return bool(session.get("/health").is_success and session.get("/weight_info").is_success)
        except HTTPError:
            return False


async def _post(session: httpx2.AsyncClient, path: str, body: Any) -> Any:
    try:
        answer = await session.post(path, json=body)
    except HTTPError as error:
        raise ServerDown(f"{path}: {type(error).__name__} {error}") from None
    if answer.is_server_error:
        raise ServerDown(f"{path}: status {answer.status_code}: {answer.text[:300]}")
    if answer.is_client_error:
        raise ServerRefused(f"{path}: status {answer.status_code}: {answer.text[:300]}")
    return answer.json() if answer.content else {}
