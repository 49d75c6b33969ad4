"""Every Triton kernel compiles for a GPU, on a machine without one: the interpreter takes what the compiler refuses.

Run as a program, this file compiles them for a Hopper GPU that is not there.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

if not os.environ.get("CI"):
    pytest.importorskip("triton")


class Hopper:
    """What Triton asks a driver for when it compiles and does not launch."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead(compiled: set[str]) -> None:
    """From here on a launch compiles its kernel and goes no further."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(Hopper())
    run = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled.add(kernel.__name__)
        return run(kernel, *args, grid=grid, warmup=True, **options)

    JITFunction.run = compile_only


def call_kernels() -> None:
    from grpo.kernels import fp8_blocks_triton, logprob_tiles_triton, prefix_attention_triton
    from grpo.kernels.layout import Layout
    from grpo.kernels.logprob_tiles import RowGradient, RowState
    from grpo.kernels.plain_attention import Rules
    from grpo.types import PackedGroup

    logits, targets, row = torch.randn(8, 64), torch.zeros(8, dtype=torch.long), torch.zeros(8)
    logprob_tiles_triton.absorb(RowState.empty(row), logits, targets, 5)
    logprob_tiles_triton.tile_gradient(logits, RowGradient(row, row, row, row), targets, 5)
    scaled = fp8_blocks_triton.quantise(torch.randn(32, 256), 1)
    fp8_blocks_triton.product(scaled, scaled)
    layout = Layout.of_groups([PackedGroup(3, (2, 4))], torch.device("cpu"))
    inputs = [torch.randn(1, 2, layout.tokens, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    out = prefix_attention_triton.prefix_attention(*inputs, layout, Rules(0.3, softcap=2.0, window=4))
    torch.autograd.grad(out, inputs, torch.ones_like(out))


@pytest.mark.slow
def test_every_kernel_compiles() -> None:
    environment: dict[str, Any] = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [
        "_absorb",
        "_by_key",
        "_by_query",
        "_forward",
        "_product",
        "_quantise",
        "_tile_gradient",
    ]


if __name__ == "__main__":
    names: set[str] = set()
    compile_instead(names)
    call_kernels()
    print(*sorted(names))
