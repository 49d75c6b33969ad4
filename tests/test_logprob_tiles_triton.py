"""Triton's kernels equal their torch reference: interpreted on a CPU here, compiled where there is a GPU."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo.kernels import logprob_tiles
from grpo.kernels.logprob_tiles import RowGradient, RowState

if not os.environ.get("CI"):
    pytest.importorskip("triton")

SHAPES = [(1, 1), (3, 7), (4, 1024), (5, 1025), (9, 2500)]


def tile(rows: int, columns: int, first: int, kind: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Random logits of a precision, in float32, and targets that lie in the tile, before it and behind it.

    The tile is cut from a wider tensor of NaN: whoever reads past its edges is found out.
    """
    poisoned = torch.full((rows + 2, columns + 3), torch.nan, device=device)
    poisoned[1 : rows + 1, 1 : columns + 1] = (4 * torch.randn(rows, columns)).to(kind).float()
    targets = torch.randint(first - 2, first + columns + 2, (rows,))
    targets[0] = first + columns - 1
    return poisoned[1 : rows + 1, 1 : columns + 1], targets.to(device)


def compare(device: str) -> float:
    """The largest difference between the two, over fresh random numbers, which the process draws itself."""
    from grpo.kernels import logprob_tiles_triton

    worst = 0.0
    for rows, columns in SHAPES:
        for kind in (torch.float32, torch.bfloat16):
            tiles = [tile(rows, columns, first, kind, device) for first in (5, 5 + columns)]
            states = [RowState.empty(torch.empty(rows, device=device)) for _ in range(2)]
            for place, (logits, targets) in enumerate(tiles):
                first = 5 + place * columns
                states[0] = logprob_tiles.absorb(states[0], logits.clone(), targets, first)
                states[1] = logprob_tiles_triton.absorb(states[1], logits, targets, first)
            outputs = [(s.logprobs(), s.entropy(), s.likeliest()) for s in states]
            by = [torch.randn(rows, device=device) for _ in range(2)]
            for by_entropy in (by[1], torch.zeros_like(by[1])):
                totals = RowGradient(by[0], by_entropy, states[0].log_total(), states[0].entropy())
                logits, targets = tiles[0]
                expected = logprob_tiles.tile_gradient(logits.clone(), totals, targets, 5)
                got = tile(rows, columns, 5, kind, device)[0].copy_(logits)  # NaN around it as well
                outputs.append((expected,))
                outputs.append((logprob_tiles_triton.tile_gradient(got, totals, targets, 5),))
            for ours, theirs in zip(outputs[::2], outputs[1::2], strict=True):
                for one, other in zip(ours, theirs, strict=True):
                    gap = ((one - other).abs() / (1 + other.abs())).max().item()
                    worst = gap if gap != gap else max(worst, gap)  # NaN stays
                    assert gap == gap
    return worst


def test_interpreted_kernels_equal_the_reference() -> None:
    """In a process of its own: Triton decides how it runs when it is imported."""
    environment: dict[str, Any] = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 2e-6


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_kernels_equal_the_reference() -> None:
    assert compare("cuda") < 2e-6


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # what is allocated and not written holds NaN
    print(json.dumps(compare("cpu")))
