"""Triton's FP8 kernels equal their torch reference: interpreted on a CPU here, compiled where there is a GPU."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo.kernels import fp8_blocks
from grpo.kernels.fp8_blocks import TILE, Scaled

if not os.environ.get("CI"):
    pytest.importorskip("triton")

SHAPES = [(1, 1, 1), (3, 5, 128), (17, 70, 129), (130, 3, 300), (65, 129, 40)]
"""M, N and K."""


def numbers(rows: int, columns: int, kind: torch.dtype, device: str) -> Tensor:
    """Random numbers over many powers of two, some of them 0, cut from a wider tensor of NaN.

    Whoever reads past its edges is found out.
    """
    poisoned = torch.full((rows + 2, columns + 3), torch.nan, dtype=kind, device=device)
    drawn = torch.randn(rows, columns) * torch.exp(4 * torch.randn(rows, columns)) * (torch.rand(rows, columns) > 0.1)
    poisoned[1 : rows + 1, 1 : columns + 1] = drawn.to(kind)
    return poisoned[1 : rows + 1, 1 : columns + 1]


def differences(device: str) -> dict[str, float]:
    """Numbers and scales that differ, and the largest relative gap of products, over fresh random inputs."""
    from grpo.kernels import fp8_blocks_triton

    found = {"values": 0.0, "scales": 0.0, "products": 0.0}
    for size, columns, inner in SHAPES:
        for kind in (torch.float32, torch.bfloat16):
            for a, rows in ((numbers(size, inner, kind, device), 1), (numbers(inner, size, kind, device).mT, TILE)):
                left = [module.quantise(a, rows) for module in (fp8_blocks, fp8_blocks_triton)]
                found["values"] += (left[0].values_MK.float() != left[1].values_MK.float()).sum().item()
                found["scales"] += (left[0].scales_MC != left[1].scales_MC).sum().item()
                for b_rows in (1, TILE):
                    right = fp8_blocks.quantise(numbers(columns, inner, kind, device), b_rows)
                    expected = fp8_blocks.product(left[0], right)
                    gap = (fp8_blocks_triton.product(left[0], right) - expected).abs()
                    size_of = fp8_blocks.product(*(absolute(part) for part in (left[0], right)))
                    worst = (gap / (size_of + 1e-30)).max().item()
                    assert worst == worst  # no NaN
                    found["products"] = max(found["products"], worst)
    return found


def absolute(x: Scaled) -> Scaled:
    return x._replace(values_MK=x.values_MK.float().abs().to(x.values_MK.dtype))


def test_interpreted_kernels_equal_the_reference() -> None:
    """In a process of its own: Triton decides how it runs when it is imported."""
    environment: dict[str, Any] = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["values"], found["scales"]) == (0, 0)
    assert found["products"] < 1e-6


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="needs FP8 on a CUDA device"
)
def test_compiled_kernels_equal_the_reference() -> None:
    """Numbers are the same; FP8 units keep some 14 bits of the largest of 128 addends, and cut each of them there."""
    found = differences("cuda")
    assert (found["values"], found["scales"]) == (0, 0)
    assert found["products"] < TILE / 2**14


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # what is allocated and not written holds NaN
    print(json.dumps(differences("cpu")))
