"""FP8 in tiles: worked numbers, and laws of its rounding, its products and its gradients."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grpo.kernels.fp8_blocks import SMALLEST_SCALE, TILE, chunks, dequantise, product, quantise
from grpo.kernels.fp8_linear import fp8_linear, has_fp8_units

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]
SIZES = [(1, 1), (3, 128), (5, 129), (130, 300)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def wide(rows: int, columns: int) -> Tensor:
    """Random numbers over many powers of two."""
    return torch.randn(rows, columns) * torch.exp(3 * torch.randn(rows, columns))


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, TILE])
def test_a_tile_by_hand(rows: int) -> None:
    vector = GOLDEN["fp8.tile_quant"]
    expected = vector["expected"]
    found = quantise(torch.tensor([vector["inputs"]["x"]]), rows)
    assert found.scales_MC.item() == pytest.approx(expected["scale"])
    assert found.values_MK[0].tolist() == expected["q"]
    assert dequantise(found)[0].tolist() == pytest.approx(expected["dequant"])


@pytest.mark.parametrize(("rows", "size"), [(rows, size) for rows in (1, TILE) for size in SIZES])
def test_the_error_is_half_a_step_of_three_bits(rows: int, size: tuple[int, int]) -> None:
    """1/16 of a number, or half of 2^-9 scales where it is tiny beside the largest of its tile."""
    x = wide(*size)
    found = quantise(x, rows)
    scale = found.spread_scales().repeat_interleave(TILE, 1)[:, : size[1]]
    assert bool(((dequantise(found) - x).abs() <= torch.maximum(x.abs() / 16, scale * 2**-10) * (1 + 1e-6)).all())
    assert torch.equal(dequantise(quantise(dequantise(found), rows)), dequantise(found))


def test_every_tile_has_a_scale_of_its_own() -> None:
    x = torch.ones(2, 200)
    x[0, :TILE], x[1, TILE:] = 448.0, 4.48
    tile, block = quantise(x, 1), quantise(x, TILE)
    assert tile.scales_MC.tolist() == [[1.0, pytest.approx(1 / 448)], [pytest.approx(1 / 448), pytest.approx(0.01)]]
    assert block.scales_MC.tolist() == [[1.0, pytest.approx(0.01)]]


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden() -> None:
    zeros = quantise(torch.zeros(2, 3), 1)
    assert dequantise(zeros).abs().sum() == 0
    assert zeros.scales_MC[0].item() == SMALLEST_SCALE
    for bad in (torch.nan, torch.inf):
        assert bool(dequantise(quantise(torch.tensor([[1.0, bad]]), 1)).isnan().any())


def test_square_blocks_can_be_transposed() -> None:
    x = wide(130, 300)
    for ours, theirs in zip(quantise(x, TILE).transposed(), quantise(x.mT, TILE), strict=True):
        assert torch.equal(torch.as_tensor(ours).float(), torch.as_tensor(theirs).float())
    with pytest.raises(ValueError, match="only square blocks have a transpose, got tiles of 1 x 128"):
        quantise(x, 1).transposed()


# --- products ---------------------------------------------------------------------------------------------------------


def test_partial_sums_are_promoted_every_128_elements() -> None:
    vector = GOLDEN["fp8.promotion"]
    assert vector["inputs"]["N_C"] == TILE
    assert len(chunks(vector["inputs"]["K"])) == vector["expected"]["num_promotions"]
    assert chunks(300) == [(0, 128), (128, 256), (256, 300)]


@pytest.mark.parametrize("rows", [1, TILE])
def test_a_product_is_that_of_the_rounded_factors(rows: int) -> None:
    a, b = quantise(wide(5, 300), 1), quantise(wide(130, 300), rows)
    expected = dequantise(a).double() @ dequantise(b).double().mT
    size = dequantise(a).abs().double() @ dequantise(b).abs().double().mT
    assert bool(((product(a, b) - expected).abs() <= 1e-6 * size).all())


# --- a linear layer ---------------------------------------------------------------------------------------------------


def rounded(x: Tensor, rows: int = 1) -> Tensor:
    return dequantise(quantise(x, rows))


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 1, 1), (7, 64, 130), (140, 300, 40)])
def test_the_three_products_by_their_definition(tokens: int, inputs: int, outputs: int) -> None:
    x = torch.randn(tokens, inputs, requires_grad=True)
    weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((outputs, inputs), (outputs,)))
    by_out = torch.randn(tokens, outputs)
    out = fp8_linear(x, weight, bias)
    out.backward(by_out)
    blocks = rounded(weight, TILE)
    assert torch.allclose(out, rounded(x) @ blocks.mT + bias, rtol=1e-5, atol=1e-4)
    assert torch.allclose(x.grad, rounded(by_out) @ blocks, rtol=1e-5, atol=1e-4)  # type: ignore[arg-type]
    along_tokens = rounded(by_out.mT) @ rounded(rounded(x).mT).mT
    assert torch.allclose(weight.grad, along_tokens, rtol=1e-5, atol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(bias.grad, by_out.sum(0), atol=1e-5)  # type: ignore[arg-type]


def test_dtypes_are_those_of_mixed_precision() -> None:
    """Under autocast the output is bfloat16, and the gradient of a float32 weight is float32."""
    x = torch.randn(2, 5, 64, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(32, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = fp8_linear(x, weight)
    out.sum().backward()
    assert (out.shape, out.dtype) == ((2, 5, 32), torch.bfloat16)
    assert (x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)  # type: ignore[union-attr]


def test_a_frozen_weight_has_no_gradient_and_no_token_no_output() -> None:
    weight = torch.randn(3, 4)
    x = torch.randn(2, 4, requires_grad=True)
    fp8_linear(x, weight).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    trained = weight.clone().requires_grad_()
    nothing = fp8_linear(torch.randn(0, 4), trained)
    nothing.sum().backward()
    assert nothing.shape == (0, 3)
    assert trained.grad is not None
    assert trained.grad.abs().sum() == 0


def test_a_cpu_has_no_units_for_fp8() -> None:
    assert not has_fp8_units(torch.device("cpu"))
