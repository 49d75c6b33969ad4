"""What the processor can compute."""

from functools import cache
from pathlib import Path

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Linux's names of instructions that multiply bfloat16: Intel's and AMD's, and ARM's."""


@cache
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether there are instructions for products of bfloat16; None where nothing says so."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    features = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return not features.isdisjoint(BFLOAT16) if features else None
