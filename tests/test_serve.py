"""The command line and the environment of a server, and that nothing of a server outlives who started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from grpo.engine_settings import RolloutSettings
from grpo.families import EngineOptions
from grpo.rollout.serve import Address, command, environment, new_key, serve
from grpo.rollout.server_key import KEY_VARIABLE
from grpo.types import UserError

OPTIONS = EngineOptions(
    {"model": "m", "max_num_seqs": 8, "enforce_eager": True, "trust_remote_code": False, "hf_overrides": {"a": 1}},
    {"VLLM_MLA_DISABLE": "1"},
)


def test_arguments_become_flags() -> None:
    line = command(OPTIONS, Address("127.0.0.1", 8123))
    assert line[:3] == [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    flags = " ".join(line[3:])
    assert "--host 127.0.0.1 --port 8123" in flags
    assert "--middleware grpo.rollout.server_key.RequireKey" in flags
    assert "--model m --max-num-seqs 9 --enforce-eager --no-trust-remote-code" in flags  # one place for signs of life
    assert '--hf-overrides {"a": 1}' in flags


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of vLLM's own imports
def test_vllm_reads_what_is_not_wanted_as_that() -> None:
    """Left out, chunked prefill is on, and a server on a CPU dies of a prompt that is cut."""
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    wanted = EngineOptions({"model": "m", "max_num_seqs": 8, "enable_chunked_prefill": False}, {})
    line = command(wanted, Address("127.0.0.1", 8123))
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    said, _ = parser.parse_known_args(line[line.index("--model") :])
    assert said.enable_chunked_prefill is False


def test_sequences_longer_than_the_model_has_positions_for_are_refused(save_tiny: Callable[..., Path]) -> None:
    model, address = str(save_tiny()), Address("127.0.0.1", 8123)
    with pytest.raises(UserError, match=r"--max-length: .* has 128 positions, got 129: lower it"):
        serve(model, RolloutSettings(), "float32", 129, address)


def test_the_environment_holds_the_key_and_the_users_own_values_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MLA_DISABLE", "0")
    found = environment(OPTIONS, "the key")
    assert (found[KEY_VARIABLE], found["VLLM_MLA_DISABLE"], found["VLLM_SERVER_DEV_MODE"]) == ("the key", "0", "1")


def test_keys_are_long_and_differ() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) >= 40


STARTER = """
import os, subprocess, sys, time
inner = "import time; time.sleep(600)"
child = f"import subprocess as s, sys, time; s.Popen([sys.executable, '-c', {inner!r}, sys.argv[1]]); time.sleep(600)"
server = [sys.executable, "-c", child, sys.argv[1]]
watch = [sys.executable, "-m", "grpo.rollout.supervise", str(os.getpid()), *server]
subprocess.Popen(watch, start_new_session=True)
time.sleep(600)
"""
"""Starts, as a run does, a server that starts a process of its own."""


def processes_with(mark: str) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found += mark.encode() in path.read_bytes()
    return found


TIDY = """
import os, signal, subprocess, sys, time
from pathlib import Path
server = '''
import signal, sys, time
from pathlib import Path
def tidy(*_):
    Path(sys.argv[1]).unlink()
    sys.exit()
signal.signal(signal.SIGTERM, tidy)
Path(sys.argv[1]).touch()
time.sleep(600)
'''
watch = [sys.executable, "-m", "grpo.rollout.supervise", str(os.getpid()), sys.executable, "-c", server, sys.argv[1]]
subprocess.Popen(watch, start_new_session=True)
time.sleep(600)
"""
"""Starts, as a run does, a server that holds a file for as long as it lives."""


def test_a_server_gives_back_what_it_holds_when_the_run_is_killed(tmp_path: Path) -> None:
    """As vLLM its shared memory."""
    held = tmp_path / "held"
    run = subprocess.Popen([sys.executable, "-c", TIDY, str(held)])
    _wait_until(held.exists)
    run.send_signal(signal.SIGKILL)
    run.wait()
    _wait_until(lambda: not held.exists())
    _wait_until(lambda: processes_with(str(held)) == 0)


def _wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_left_when_the_run_is_killed() -> None:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    run = subprocess.Popen([sys.executable, "-c", STARTER, mark])
    _wait_until(lambda: processes_with(mark) >= 4)  # the run, the supervisor, the server, the process of the server
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(mark) == 0
