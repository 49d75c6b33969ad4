"""A server of vLLM for rollouts: its command line, its key, its start and its end."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

from grpo.engine_settings import EngineSettings
from grpo.families import EngineOptions, positions, positions_said
from grpo.rollout.server_key import KEY_VARIABLE
from grpo.types import UserError

MIDDLEWARE = "grpo.rollout.server_key.RequireKey"
DEFAULT_LENGTH = 4096
"""Tokens of a prompt and its completion where the model knows no limit."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """For a client."""
        return f"http://{self.host}:{self.port}"


def command(options: EngineOptions, address: Address) -> list[str]:
    """The command line of vLLM's server. One place more than rollouts use is kept for signs of life under full load."""
    arguments = dict(options.arguments)
    arguments["max_num_seqs"] += 1
    flags = [flag for name, value in arguments.items() for flag in _flag(name, value)]
    where = ["--host", address.host, "--port", str(address.port), "--middleware", MIDDLEWARE, "--enable-scale-out"]
    # `vllm serve` itself asks for a distribution of the name vllm, which its CPU build is not.
    return [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *where, *flags]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]  # what is left out is not false but vLLM's choice
    return [flag, json.dumps(value) if isinstance(value, Mapping) else str(value)]


def environment(options: EngineOptions, key: str, gpus: str | None = None) -> dict[str, str]:
    """The variables of a server: those in force here, those that the model needs, its GPUs, and the key."""
    # The paths through which weights come exist in this mode only; RequireKey guards them.
    own = {"VLLM_SERVER_DEV_MODE": "1", KEY_VARIABLE: key}
    return {**options.environment, **os.environ, **own, **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})}


def new_key() -> str:
    """A key that nobody guesses."""
    return secrets.token_urlsafe(32)


def start(
    options: EngineOptions, address: Address, key: str, gpus: str | None, log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    """Start a server that ends with this process, however this process ends."""
    watch = [sys.executable, "-m", "grpo.rollout.supervise", str(os.getpid()), *command(options, address)]
    own = environment(options, key, gpus)
    return subprocess.Popen(watch, env=own, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def stop(process: "subprocess.Popen[bytes]", grace_s: float = 0.0) -> None:
    """End a server and every process that it started, even one that hangs; with `grace_s` it may first tidy up."""
    with contextlib.suppress(ProcessLookupError):
        if grace_s:
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            process.poll()  # or else it stays in its group when it has ended
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def serve(
    model: str, settings: EngineSettings, dtype: Literal["float32", "bfloat16"], length: int | None, address: Address
) -> None:
    """Become a server of a model, until it is stopped; first say where it listens and with which key.

    Raises:
        UserError: there is no model, it has no room for `length`, or vLLM cannot serve its architecture.
    """
    from grpo.pretrained import load_config
    from grpo.rollout.transfer import planned_way, with_way
    from grpo.rollout.vllm_options import Load, on_cpu, vllm_options

    config = load_config(model)
    room = positions(config)
    if length is not None and room is not None and length > room:
        raise UserError(f"--max-length: {model} has {positions_said(config)}, got {length}: lower it or leave it out")
    options = vllm_options(settings, model, config, dtype, Load(length or room or DEFAULT_LENGTH))
    if settings.servers is not None:
        options = with_way(options, planned_way(settings.servers, on_cpu()))
    key = os.environ.get(KEY_VARIABLE) or new_key()
    print(f"{address.url} serves {model}; whoever is to use it needs\n  export {KEY_VARIABLE}={key}", flush=True)
    if address.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"it listens on {address.host}: whoever has the key can change its weights", flush=True)
    line = command(options, address)
    os.execvpe(line[0], line, environment(options, key))
