"""Worker processes that can be killed: symbolic mathematics on text that a model wrote may never end.

Two limits hold a call. The worker's own alarm ends it on time, even inside a long computation that never returns to
Python; the pool kills a worker whose alarm failed. A worker that dies takes only its own call with it.
"""

import atexit
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

GRACE = 2.0
"""Seconds beyond its limit after which a call is killed from outside."""

PATIENCE = 60.0
"""Seconds without any result after which the pool itself counts as broken: starting workers may take many."""

WORKERS = os.cpu_count() or 1
"""Processes; a pool that runs keeps its own."""

MAX_BYTES = 2 * 2**30
"""Address space of a worker. sympy and math-verify need 0.2 GiB; an expression that wants more is not an answer."""

_OUT_OF_MEMORY = 77
"""The exit code of a worker that wanted more."""


class WorkerError(Exception):
    """A call raised in its worker, or its worker died."""


class _Broken(Exception):
    """The pool broke before the call ended; the call deserves another try."""


def run_all(
    fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], seconds: float, max_bytes: int = MAX_BYTES
) -> list[Any]:
    """Call `fn` on every argument tuple in worker processes, each for at most `seconds` and in `max_bytes` of memory.

    Returns, in order, what each call returned, or in its place a TimeoutError (it took too long, or wanted too much
    memory: its worker is killed and replaced) or a WorkerError (it raised, or its worker was killed). `fn` and its
    arguments are pickled, so `fn` stands at the top of a module (not of the script that runs). Any thread may call
    this; one batch is worked on at a time.
    """
    if not arguments:
        return []
    with _lock:
        results = _attempt(fn, arguments, seconds, max_bytes)
        again = [i for i, result in enumerate(results) if isinstance(result, _Broken)]
        retried = _attempt(fn, [arguments[i] for i in again], seconds, max_bytes) if again else []
    for i, result in zip(again, retried, strict=True):
        results[i] = WorkerError("the worker pool broke twice") if isinstance(result, _Broken) else result
    return results


def stop() -> None:
    """End the workers; the next call starts new ones."""
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        pool.stop()
        pool.join()


def worker_pids() -> list[int]:
    """The process ids of this process's workers."""
    return [p.pid for p in multiprocessing.active_children() if isinstance(p, _Worker) and p.pid is not None]


# --- in this process --------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_pool: ProcessPool | None = None
_spawning = threading.local()


def _forget() -> None:
    """A fork inherits neither the pool's threads nor the right to its workers."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
atexit.register(stop)


def _attempt(fn: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], seconds: float, max_bytes: int) -> list[Any]:
    pool = _running_pool()
    limits = seconds, max_bytes
    try:
        futures = [pool.schedule(_limited, (fn, args, *limits), timeout=seconds + GRACE) for args in arguments]
    except RuntimeError:  # an idle worker was killed, which ends a pebble pool
        stop()
        return [_Broken()] * len(arguments)
    return [_result(pool, future, seconds) for future in futures]


def _running_pool() -> ProcessPool:
    global _pool
    if _pool is not None and not _pool.active:
        stop()
    if _pool is None:
        _pool = ProcessPool(max_workers=WORKERS, initializer=_prepare_worker, context=_Context())
    return _pool


def _result(pool: ProcessPool, future: Future[Any], seconds: float) -> Any:
    """Futures end in about the order they were made in, so waiting for one is waiting for few calls."""
    deadline = time.monotonic() + 2 * (seconds + GRACE) + PATIENCE
    while not wait([future], timeout=1.0).done:
        if not pool.active or time.monotonic() > deadline:
            stop()
            return _Broken()
    try:
        fine, value = future.result()
    except TimeoutError:
        return _timed_out(seconds)
    except ProcessExpired as error:
        if error.exitcode == -signal.SIGALRM:
            return _timed_out(seconds)
        if error.exitcode == _OUT_OF_MEMORY:
            return TimeoutError("no result within its limit of memory")
        return WorkerError(f"worker died, exit code {error.exitcode}")
    except (BrokenProcessPool, CancelledError):
        return _Broken()
    except Exception as error:  # an argument or a result that cannot be pickled
        return WorkerError(f"{type(error).__name__}: {error}")
    return value if fine else WorkerError(value)


def _timed_out(seconds: float) -> TimeoutError:
    return TimeoutError(f"no result within {seconds:g} s")


class _Worker(SpawnProcess):
    """A spawned process that does not run the user's script again.

    multiprocessing imports the parent's `__main__` in every child; a script without an `if __name__` guard would start
    its training once more in each worker, and again whenever one is replaced.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        _spawning.without_main = True
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            _spawning.without_main = False


class _Context(SpawnContext):
    Process = _Worker


def _omit_main(original: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    def preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if getattr(_spawning, "without_main", False):
            data = {key: value for key, value in data.items() if not key.startswith("init_main")}
        return data

    return preparation_data


spawn.get_preparation_data = _omit_main(spawn.get_preparation_data)  # type: ignore[assignment]


# --- in a worker ------------------------------------------------------------------------------------------------------


def _prepare_worker() -> None:
    """Import what the calls use, so that no call's time pays for it."""
    import math_verify  # noqa: F401

    import grpo.rewards.symbolic  # noqa: F401

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _limited(fn: Callable[..., Any], args: tuple[Any, ...], seconds: float, max_bytes: int) -> tuple[bool, Any]:
    """Whether `fn` returned, and what, or the sentence of its error: an exception of a user may not unpickle.

    The alarm's default action kills the process in whatever it is doing. After a MemoryError the process is in no state
    to be kept.
    """
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes if hard < 0 else min(max_bytes, hard), hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return True, fn(*args)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    except Exception as error:
        return False, f"{type(error).__name__}: {str(error)[:500]}{_where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _where(error: Exception) -> str:
    """The line of the called function's file that raised."""
    here = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
