"""A process that runs a server, and is gone with all of it when whoever started it is gone. It imports very little."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

POLL_S = 0.2


def supervise(parent: int, server: Sequence[str]) -> int:
    """Run a server until it ends or the parent does; as leader of its session this then ends all of it, itself too."""
    child = subprocess.Popen(list(server))
    while child.poll() is None and os.getppid() == parent:
        time.sleep(POLL_S)
    print(f"server ended with status {child.returncode}", flush=True)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # vLLM's engine is a process of its own and outlives its server
    return child.wait()


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), sys.argv[2:]))
