"""The servers of a run: those that it started are started again when they die; those of others are only used."""

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpo.engine_settings import ServerSettings
from grpo.families import EngineOptions
from grpo.rollout.serve import Address, new_key, start, stop
from grpo.rollout.server_client import ServerClient
from grpo.types import EngineLost, UserError

LOOPBACK = "127.0.0.1"
POLL_S = 0.2
MOST_FAILED_STARTS = 2
"""Starts in a row that may fail before a server is given up: what stops it then is no accident."""


@dataclass
class Server:
    """A server and what is known of it: the version of its weights, None while it has none of this run."""

    client: ServerClient
    version: int | None = None
    up: bool = False
    deaths: list[str] = field(default_factory=list)
    failed_starts: int = 0


class ServerPool:
    """Servers by number. Ours are processes with a log file each; `close` ends them.

    Raises:
        UserError: a URL's server does not answer, or no key for it is in the environment.
        EngineLost: a server that was started does not come up.
    """

    def __init__(self, settings: ServerSettings, options: EngineOptions, logs: Path):
        self._settings = settings
        self._options = options
        self._logs = logs
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        if settings.urls is not None:
            key = key_for_urls(settings)
            self.servers = [Server(ServerClient(url, key, settings.deadline_s)) for url in settings.urls]
        else:
            self._key = new_key()
            self._addresses = [Address(LOOPBACK, port) for port in _free_ports(settings.count or 1)]
            self.servers = [Server(ServerClient(a.url, self._key, settings.deadline_s)) for a in self._addresses]
            for number in range(len(self.servers)):
                self._start(number)
        self.wait_for_one()

    def live(self) -> list[Server]:
        """Those that answer. One that died is among them again once it has come up anew, without weights."""
        for number, server in enumerate(self.servers):
            self._restart_if_ended(number)
            if not server.up and server.client.is_up():
                server.up, server.version, server.failed_starts = True, None, 0
        return [server for server in self.servers if server.up]

    def wait_for_one(self) -> list[Server]:
        """The live ones, when there is at least one. Raises EngineLost when none comes up in time."""
        deadline = time.monotonic() + self._settings.start_s
        while not (live := self.live()):
            if not self._processes or time.monotonic() > deadline:
                raise self._lost()
            time.sleep(POLL_S)
        return live

    def bury(self, server: Server, reason: str) -> None:
        """Note that a server is dead, and start it again if it is ours."""
        server.up = False
        server.deaths.append(reason)
        number = self.servers.index(server)
        if number in self._processes:
            stop(self._processes[number])
            self._start(number)

    def close(self) -> None:
        """End the servers that were started here."""
        for process in self._processes.values():
            stop(process)
        self._processes.clear()

    def _start(self, number: int) -> None:
        with (self._logs / f"server-{number}.log").open("ab") as log:
            self._processes[number] = start(self._options, self._addresses[number], self._key, log)

    def _restart_if_ended(self, number: int) -> None:
        process = self._processes.get(number)
        server = self.servers[number]
        if process is None or process.poll() is None:
            return
        server.failed_starts += not server.up
        if server.failed_starts > MOST_FAILED_STARTS:
            del self._processes[number]
            server.deaths.append(f"did not start {server.failed_starts} times in a row")
        else:
            self.bury(server, f"ended with status {process.returncode}")

    def _lost(self) -> Exception:
        reasons = "; ".join(f"{s.client.url}: {s.deaths[-1] if s.deaths else 'does not answer'}" for s in self.servers)
        if self._settings.urls is not None and not any(server.deaths for server in self.servers):
            return UserError(
                f"rollout.servers.urls: no server answers ({reasons}): start one with grpo serve MODEL, and put its "
                f"key in {self._settings.key_env}"
            )
        return EngineLost(f"no server is left to sample ({reasons}; logs in {self._logs}): mend that and run again")


def key_for_urls(settings: ServerSettings) -> str:
    """The key of servers that others started. Raises UserError when the environment lacks it."""
    key = os.environ.get(settings.key_env)
    if not key:
        raise UserError(
            f"rollout.servers: expected the servers' key in the environment variable {settings.key_env}, got none: "
            "grpo serve prints it when it starts"
        )
    return key


def _free_ports(count: int) -> Sequence[int]:
    """Ports of the loopback interface that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for bound in sockets:
        bound.bind((LOOPBACK, 0))
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
