"""A process that runs a server, and is gone with all of it when whoever started it is gone. It imports very little."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

POLL_S = 0.2
GRACE_S = 10.0
"""Seconds in which a server that is told to stop gives back its shared memory."""
REST_S = 1.0
"""Seconds in which what a server has started ends after it."""


def supervise(parent: int, server: Sequence[str]) -> int:
    """Run a server until it ends or the parent does; as leader of its session this then ends all of it, itself too."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is for the server, which has the same group
    child = subprocess.Popen(list(server))
    while child.poll() is None and os.getppid() == parent:
        time.sleep(POLL_S)
    print(f"server ended with status {child.returncode}", flush=True)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
            time.sleep(REST_S)
        os.killpg(0, signal.SIGKILL)  # vLLM's engine is a process of its own and outlives its server
    return child.wait()


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), sys.argv[2:]))
