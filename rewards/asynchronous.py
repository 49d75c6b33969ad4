"""Calls an async reward for many completions at once, from any thread, with or without a running event loop."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CONCURRENT = 64
"""Calls under way at a time: a judge behind a rate limit answers no sooner when it is asked for everything at once."""


def run_async(fn: Callable[..., Coroutine[Any, Any, Any]], calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What each call returned, or the exception that it raised in its place."""
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread already runs a loop
        return thread.submit(asyncio.run, _all(fn, calls)).result()


async def _all(fn: Callable[..., Coroutine[Any, Any, Any]], calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    free = asyncio.Semaphore(CONCURRENT)

    async def one(call: Mapping[str, Any]) -> Any:
        async with free:
            try:
                return await fn(**call)
            except Exception as error:
                return error

    return list(await asyncio.gather(*map(one, calls)))
