"""A GPU's attention over packed groups equals one masked attention in float64: interpreted here, compiled there."""

import json
import os
import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo.kernels.layout import Layout
from grpo.kernels.packed_attention import masked_attention
from grpo.kernels.plain_attention import Rules
from grpo.kernels.tiles import Tile, key_tiles, query_tiles
from grpo.types import PackedGroup

if not os.environ.get("CI"):
    pytest.importorskip("triton")

Case = tuple[list[PackedGroup], tuple[int, ...], Rules]
RAGGED = [PackedGroup(1, (30, 2)), PackedGroup(40, (1, 0, 5)), PackedGroup(3, ()), PackedGroup(9, (0, 0))]
PLAIN, CAPPED, NEAR = Rules(0.3), Rules(0.3, softcap=2.0), Rules(0.3, window=4)
BOTH = Rules(0.3, softcap=2.0, window=25)
INTERPRETED: list[Case] = [
    (RAGGED, (4, 2, 16, 16), PLAIN),
    (RAGGED, (2, 2, 24, 8), BOTH),
    ([PackedGroup(7, (3, 9, 1, 4, 9))], (3, 1, 5, 7), CAPPED),
    ([PackedGroup(5, (n,)) for n in (1, 30, 2)], (1, 1, 16, 16), NEAR),
]
"""Groups, rules, and a shape: query heads, heads of keys and values, head size and size of a value."""
COMPILED: list[tuple[tuple[int, ...], Rules]] = [
    ((9, 3, 64, 64), PLAIN), ((9, 3, 64, 64), BOTH), ((6, 1, 128, 128), CAPPED), ((4, 4, 192, 128), PLAIN),
    ((4, 2, 8, 12), NEAR), ((2, 1, 256, 256), PLAIN),
]  # fmt: skip
LARGE = [PackedGroup(300, (280, 290, 1)), PackedGroup(2, (270,)), PackedGroup(129, (64, 128))]


def numbers(rows: int, heads: int, size: int, kind: torch.dtype, device: str) -> Tensor:
    """Random (1, heads, rows, size), cut from a wider tensor of NaN: whoever reads past its edges is found out."""
    poisoned = torch.full((rows + 2, heads, size + 3), torch.nan, dtype=kind, device=device)
    poisoned[1 : rows + 1, :, 1 : size + 1] = torch.randn(rows, heads, size).to(device)
    return poisoned[1 : rows + 1, :, 1 : size + 1].transpose(0, 1)[None].detach().requires_grad_()


def compare(device: str, cases: list[Case]) -> dict[str, float]:
    """The largest difference of an output or a gradient, relative to its norm, over fresh random numbers."""
    from grpo.kernels.prefix_attention_triton import prefix_attention

    worst = {}
    for (groups, (heads, shared, size, width), rules), kind in product(cases, (torch.float32, torch.bfloat16)):
        layout = Layout.of_groups(groups, torch.device(device))
        shapes = ((heads, size), (shared, size), (shared, width))
        inputs = [numbers(layout.tokens, *shape, kind, device) for shape in shapes]
        upstream = torch.randn(1, layout.tokens, heads, width, device=device).to(kind)
        out = prefix_attention(*inputs, layout, rules)
        exact = [t.detach().double().requires_grad_() for t in inputs]
        expected = masked_attention(*exact, layout, rules)
        ours, theirs = (
            torch.autograd.grad(out, inputs, upstream),
            torch.autograd.grad(expected, exact, upstream.double()),
        )
        for one, other in zip((out, *ours), (expected, *theirs), strict=True):
            gap = ((one.double() - other).norm() / (other.norm() + 1e-9)).item()
            assert gap == gap, (groups, shapes, rules)  # no NaN
            worst[str(kind)] = max(worst.get(str(kind), 0.0), gap)
    return worst


def within_rounding(found: dict[str, float]) -> bool:
    return found["torch.float32"] < 5e-6 and 1e-4 < found["torch.bfloat16"] < 2e-2


def test_interpreted_kernels_equal_the_reference() -> None:
    """In a process of its own: Triton decides how it runs when it is imported."""
    environment: dict[str, Any] = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert within_rounding(json.loads(done.stdout)), done.stdout


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("shape", "rules"), COMPILED, ids=str)
def test_compiled_kernels_equal_the_reference(shape: tuple[int, ...], rules: Rules) -> None:
    found = compare("cuda", [(groups, shape, rules) for groups in (RAGGED, LARGE)])
    assert within_rounding(found), found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_kernels_give_the_same_bits_every_time() -> None:
    from grpo.kernels.prefix_attention_triton import prefix_attention

    layout = Layout.of_groups(LARGE, torch.device("cuda"))
    inputs = [numbers(layout.tokens, heads, 64, torch.bfloat16, "cuda") for heads in (6, 2, 2)]
    outs = [prefix_attention(*inputs, layout, PLAIN) for _ in range(3)]
    gradients = [torch.autograd.grad(out.float().sum(), inputs) for out in outs]
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert all(torch.equal(one, first) for some in gradients for one, first in zip(some, gradients[0], strict=True))


def test_tiles_by_hand() -> None:
    """Two plain sequences, then prompt 7 8 9 with completions 10 11 12 and 13, in tiles of two tokens."""
    layout = Layout.of_groups([PackedGroup(2, (1,)), PackedGroup(1, (3,)), PackedGroup(3, (3, 1))], torch.device("cpu"))
    rows = [Tile(10, 12, 7, 10, 10), Tile(12, 14, 7, 10, 10), Tile(6, 7, 0, 0, 3), Tile(9, 10, 0, 0, 7)]
    assert sorted(query_tiles(layout, 2)) == sorted(
        [*rows, Tile(0, 2, 0, 0, 0), Tile(2, 4, 0, 0, 0), Tile(4, 6, 0, 0, 3), Tile(7, 9, 0, 0, 7)]
    )
    keys = [Tile(7, 9, 10, 14, 10), Tile(9, 10, 10, 14, 10), Tile(10, 12, 0, 0, 13), Tile(12, 14, 0, 0, 14)]
    assert sorted(key_tiles(layout, 2)) == sorted(
        [*keys, Tile(0, 2, 0, 0, 3), Tile(2, 4, 0, 0, 7), Tile(4, 6, 0, 0, 7), Tile(6, 7, 0, 0, 7)]
    )


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # what is allocated and not written holds NaN
    print(json.dumps(compare("cpu", INTERPRETED)))
