"""A process that runs a server, and is gone with all of it when whoever started it is gone. It imports very little."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

POLL_S = 0.2


def supervise(parent: int, server: Sequence[str]) -> int:
    """Run a server until it ends or the parent does; nothing of it is left then. Returns its exit status."""
    child = subprocess.Popen(list(server))
    while child.poll() is None and os.getppid() == parent:
        time.sleep(POLL_S)
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGKILL)  # vLLM's engine is a process of its own and outlives its server; this one ends too
    return child.wait()


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), sys.argv[2:]))
