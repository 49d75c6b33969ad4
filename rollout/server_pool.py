"""The servers of a run: those that it started are started again when they die; those of others are only used."""

import logging
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
from grpo.rollout.server_client import ServerClient, ServerDown, ServerRefused
from grpo.rollout.supervise import GRACE_S
from grpo.rollout.transfer import Place, Way, chosen_way, learner_gpu, planned_way, with_way
from grpo.rollout.vllm_options import gpus_of, on_cpu, visible_gpus
from grpo.types import EngineLost, UserError

LOOPBACK = "127.0.0.1"
POLL_S = 0.2

MOST_DEATHS = 3
"""Deaths of a server, without a completion between them, after which it is given up: they are no accident then."""


@dataclass
class Server:
    """A server and what is known of it: the label of its weights, None while it has none of this run."""

    client: ServerClient
    weights: str | None = None
    up: bool = False
    deaths: list[str] = field(default_factory=list)
    deaths_in_a_row: int = 0
    completions: int = 0

    @property
    def given_up(self) -> bool:
        """Whether it has died too often to be tried again."""
        return self.deaths_in_a_row > MOST_DEATHS

    def served(self, check: bool) -> None:
        """Note a completion: it is well, unless this is all that it can do, the few of a `check`."""
        self.completions += 1
        self.deaths_in_a_row = self.deaths_in_a_row if check else 0


class ServerPool:
    """Servers by number, and the way that weights take to all of them. Ours are processes with a log file each; `close`
    ends them.

    Raises:
        UserError: a URL's server does not answer or is not what the recipe asks for, no key for it is in the
            environment, or there are too few GPUs for ours.
        EngineLost: a server that was started does not come up.
    """

    def __init__(self, settings: ServerSettings, options: EngineOptions, logs: Path):
        self._settings = settings
        self._logs = logs
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        if settings.urls is not None:
            key = key_for_urls(settings)
            self.servers = [Server(ServerClient(url, key, settings.deadline_s)) for url in settings.urls]
            places = [_check_url(server.client, options) for server in self.servers]
            self.way: Way = chosen_way(settings, learner_gpu(), places)
        else:
            self.way = planned_way(settings, on_cpu())
            self._options = with_way(options, self.way)
            self._start_all(settings.count or 1, settings.tensor_parallel)

    def live(self) -> list[Server]:
        """Those that answer. One that died is among them again once it has come up anew, without weights."""
        for number, server in enumerate(self.servers):
            self._restart_if_ended(number)
            if not server.up and not server.given_up and server.client.is_up():
                server.up, server.weights = True, None
        return [server for server in self.servers if server.up]

    def wait(self, count: int) -> list[Server]:
        """The live ones, when there are `count`. Raises EngineLost when they do not come up in time."""
        deadline = time.monotonic() + self._settings.start_s
        while len(live := self.live()) < count:
            hopeless = sum(not server.given_up for server in self.servers) < count
            if hopeless or time.monotonic() > deadline:
                raise EngineLost(self._lost(count, len(live)))
            time.sleep(POLL_S)
        return live

    def bury(self, server: Server, reason: str) -> None:
        """Note that a server is dead, and start it again if it is ours."""
        server.up = False
        server.deaths.append(reason)
        server.deaths_in_a_row += 1
        logging.getLogger(__name__).warning("%s is dead: %s", server.client.url, reason)
        number = self.servers.index(server)
        if number in self._processes:
            stop(self._processes.pop(number))
            if not server.given_up:
                self._start(number)

    def close(self) -> None:
        """End the servers that were started here."""
        for process in self._processes.values():
            stop(process, GRACE_S)
        self._processes.clear()

    def _start_all(self, count: int, tensor_parallel: int) -> None:
        self._key = new_key()
        self._gpus = gpus_of(count, tensor_parallel, visible_gpus(), shared=self.way == "ipc")
        self._addresses = [Address(LOOPBACK, port) for port in _free_ports(count)]
        self.servers = [Server(ServerClient(a.url, self._key, self._settings.deadline_s)) for a in self._addresses]
        try:
            for number in range(count):
                self._start(number)
            self.wait(count)
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> None:
        with (self._logs / f"server-{number}.log").open("ab") as log:
            process = start(self._options, self._addresses[number], self._key, self._gpus[number], log)
        self._processes[number] = process

    def _restart_if_ended(self, number: int) -> None:
        process = self._processes.get(number)
        if process is not None and process.poll() is not None:
            self.bury(self.servers[number], f"it ended, see {self._logs}/server-{number}.log")

    def _lost(self, wanted: int, live: int) -> str:
        reasons = "; ".join(f"{s.client.url}: {s.deaths[-1] if s.deaths else 'does not answer'}" for s in self.servers)
        return (
            f"{live} servers are left to sample, expected {wanted} ({reasons}): mend that, and run again to go on from "
            "the last checkpoint"
        )


def key_for_urls(settings: ServerSettings) -> str:
    """The key of servers that others started. Raises UserError when the environment lacks it."""
    key = os.environ.get(settings.key_env)
    if not key:
        raise UserError(
            f"rollout.servers: expected the servers' key in the environment variable {settings.key_env}, got none: "
            "grpo serve prints it when it starts"
        )
    return key


def _check_url(client: ServerClient, options: EngineOptions) -> Place:
    """Where a server that others started is; it answers, computes in the recipe's dtype, and has room.

    Raises:
        UserError: it does not.
    """
    if not client.is_up():
        raise UserError(
            f"rollout.servers.urls: {client.url} does not answer, or not to this key: start it with grpo serve MODEL, "
            "and put the key that it prints in the environment"
        )
    try:
        found = client.describe()
    except (ServerDown, ServerRefused) as error:
        raise UserError(f"rollout.servers.urls: {client.url} was not started by grpo serve ({error})") from None
    wanted = options.arguments
    if found["dtype"] != wanted["dtype"]:
        raise UserError(
            f"rollout.servers.urls: {client.url} computes in {found['dtype']}, the recipe expects {wanted['dtype']}: "
            f"set vllm.dtype: {found['dtype']}, or grpo serve --dtype {wanted['dtype']}"
        )
    for name, has, needs, flag in (
        ("tokens", found["longest"], wanted["max_model_len"], "--max-length"),
        ("places", found["concurrent"] - 1, wanted["max_num_seqs"], "--max-concurrent"),
    ):
        if has < needs:
            raise UserError(
                f"rollout.servers.urls: {client.url} has {has} {name}, the recipe needs {needs}: grpo serve {flag}"
            )
    return Place(client.url, found["gpus"], found["transfer"])


def _free_ports(count: int) -> Sequence[int]:
    """Ports of the loopback interface that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for bound in sockets:
        bound.bind((LOOPBACK, 0))
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
