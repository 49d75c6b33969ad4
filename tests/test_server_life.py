"""When a server counts as dead."""

import asyncio
import time

import pytest

from grpo.rollout.server_client import ServerClient, ServerDown, ServerSilent
from grpo.rollout.server_engine import watch_over
from grpo.rollout.server_pool import MOST_DEATHS, Server

DEADLINE_S = 0.2


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a question and never answer."""
    try:
        await reader.read()
    finally:
        writer.transport.abort()  # nothing is left when the loop closes


async def seconds_until_dead(completions_at: list[float]) -> float:
    """How long a server that answers no question, but ends completions at these times, counts as alive."""
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        server = Server(ServerClient(f"http://127.0.0.1:{port}", "key", DEADLINE_S))
        async with server.client.session() as session:
            start = time.monotonic()
            for seconds in completions_at:
                asyncio.get_running_loop().call_later(seconds, server.served, False)
            with pytest.raises(ServerSilent, match="no sign of life within"):
                await watch_over(server, session, 65, DEADLINE_S)
        return time.monotonic() - start


def test_a_server_that_ends_completions_is_alive_though_questions_wait() -> None:
    assert asyncio.run(seconds_until_dead([])) >= DEADLINE_S
    assert asyncio.run(seconds_until_dead([0.05])) >= 2 * DEADLINE_S


def test_a_server_that_is_gone_is_dead_whatever_it_has_done() -> None:
    async def ask() -> None:
        server = Server(ServerClient("http://127.0.0.1:9", "key", 60.0))
        server.served(check=False)
        async with server.client.session() as session:
            await watch_over(server, session, 65, 60.0)

    with pytest.raises(ServerDown):
        asyncio.run(ask())


def test_a_server_that_passes_checks_and_dies_of_rollouts_is_given_up() -> None:
    server = Server(ServerClient("http://127.0.0.1:9", "key", 60.0))
    for _ in range(MOST_DEATHS + 1):
        server.deaths_in_a_row += 1
        server.served(check=True)
    assert server.given_up
    assert server.completions == MOST_DEATHS + 1
    server.served(check=False)
    assert not server.given_up
