"""The process's memory allocator."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Names of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next to ask, where it would give it back to the system.

    A step frees and asks for the same gigabytes again and again, and the system clears every page of them anew. Other
    C libraries, which have no mallopt, are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)
