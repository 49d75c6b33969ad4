"""How fast the kernels for GPUs are beside torch's own ways, and what other sizes of their blocks would give.

    python benchmarks/kernels.py [attention] [attention64] [logprobs] [fp8] [norms]

Times are medians of triton's do_bench, forward and backward pass together where there are both. TFLOP/s count what must
be computed: pairs of tokens that see each other, each product once.
"""

import argparse
import gc
import math
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from grpo.kernels import fp8_blocks_triton, head_logprobs, logprob_tiles, prefix_attention_triton
from grpo.kernels.elementwise import gated_silu, rms_norm
from grpo.kernels.fp8_blocks import TILE
from grpo.kernels.fp8_linear import fp8_linear
from grpo.kernels.head_logprobs import LogitRules, head_scores
from grpo.kernels.layout import Layout
from grpo.kernels.logprobs import token_logprobs_and_entropy
from grpo.kernels.plain_attention import Rules
from grpo.kernels.prefix_attention_triton import Blocks, prefix_attention
from grpo.types import PackedGroup

GPU = torch.device("cuda")


def milliseconds(work: Callable[[], Any], length: int = 60) -> float:
    """The median of `length` ms of repeated work; NaN where it fails, and why is said."""
    from triton.testing import do_bench

    try:
        return float(do_bench(work, warmup=15, rep=length, return_mode="median"))
    except Exception as error:  # a size of blocks that does not fit, or an option that this torch has not
        print(f"  failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}", flush=True)
        return math.nan


def both_ways(work: Callable[[], Tensor], inputs: Iterable[Tensor]) -> Callable[[], Any]:
    """Forward and backward pass."""
    given, upstream = list(inputs), None

    def passes() -> Any:
        nonlocal upstream
        out = work()
        upstream = torch.randn_like(out) if upstream is None else upstream
        return torch.autograd.grad(out, given, upstream)

    return passes


# --- attention --------------------------------------------------------------------------------------------------------


def groups_of(count: int, prompt: int, new: int) -> list[PackedGroup]:
    """As `learner_rollouts.py draw` draws them: eight completions of log-normal length each."""
    generator = torch.Generator().manual_seed(0)
    lengths = (0.4 * new * torch.exp(0.6 * torch.randn(count, 8, generator=generator))).round().clamp(8, new).int()
    return [PackedGroup(prompt, tuple(row)) for row in lengths.tolist()]


def flex_of(layout: Layout, query: Tensor) -> Callable[..., Tensor]:
    """torch's FlexAttention under the same mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    end_T = layout.of_each_token([segment.end for segment in layout.segments])

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (key <= row) & (row < end_T[key])

    mask = create_block_mask(sees, None, None, layout.tokens, layout.tokens, "cuda")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=True)


def attention(heads: int = 12, shared: int = 2, size: int = 128) -> None:
    """Packed groups beside FlexAttention under the same mask, and beside padded rows with torch's fused kernel."""
    for name, groups in (("512 + 1024", groups_of(4, 512, 1024)), ("200 + 128", groups_of(8, 200, 128))):
        layout = Layout.of_groups(groups, GPU)
        seen = sum(p * (p + 1) / 2 + sum(n * p + n * (n + 1) / 2 for n in lengths) for p, lengths in groups)
        for dtype in (torch.bfloat16, torch.float32):
            shapes = ((heads, size), (shared, size), (shared, size))
            inputs = [
                torch.randn(1, layout.tokens, *s, device=GPU, dtype=dtype).transpose(1, 2).requires_grad_()
                for s in shapes
            ]
            rules = Rules(size**-0.5)
            flops = 4 * heads * size * seen
            said = f"{name}, {layout.tokens} tokens, {heads}/{shared} heads of {size}, {str(dtype)[6:]}"
            own = lambda: prefix_attention(*inputs, layout, rules)  # noqa: B023, E731
            report(f"{said}: packed", milliseconds(own), milliseconds(both_ways(own, inputs)), flops)
            rows = len(groups) * 8
            longest = max(p + max(lengths) for p, lengths in groups)
            padded = [torch.randn(rows, s[0], longest, s[1], device=GPU, dtype=dtype).requires_grad_() for s in shapes]
            torchs = lambda: scaled_dot_product_attention(*padded, is_causal=True, enable_gqa=True)  # noqa: B023, E731
            report(f"{said}: padded SDPA", milliseconds(torchs), milliseconds(both_ways(torchs, padded)), flops)
            if dtype == torch.bfloat16:
                flex = flex_of(layout, inputs[0])
                flexed = lambda: flex(*inputs)  # noqa: B023, E731
                report(f"{said}: flex", milliseconds(flexed), milliseconds(both_ways(flexed, inputs)), flops)
            if name == "512 + 1024" and dtype == torch.bfloat16:
                best_blocks(own, inputs)
            gc.collect()


def report(name: str, forward: float, both: float, flops: float) -> None:
    """Milliseconds and TFLOP/s; a backward pass has five products for the forward pass's two."""
    rates = flops / forward / 1e9, 3.5 * flops / both / 1e9
    print(f"{name}: forward {forward:.3f} ms ({rates[0]:.0f} TF/s), both {both:.3f} ms ({rates[1]:.0f})", flush=True)


def best_blocks(work: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    """The best sizes of blocks, forward and both ways with the best of forward."""
    forward = ((128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3))
    backwards = ((64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 2), (64, 128, 8, 2), (128, 128, 8, 2), (64, 32, 4, 3))
    own = prefix_attention_triton._blocks
    for backward, tried in ((False, forward), (True, backwards)):
        times = {}
        for blocks in (Blocks(*sizes) for sizes in tried):

            def chosen(q: Tensor, v: Tensor, backward: bool, asked: bool = backward, blocks: Blocks = blocks) -> Blocks:
                return blocks if backward == asked else own(q, v, backward)

            with patch.object(prefix_attention_triton, "_blocks", chosen):
                times[blocks] = milliseconds(both_ways(work, inputs) if backward else work, 25)
        best = sorted(times.items(), key=lambda pair: (math.isnan(pair[1]), pair[1]))[:4]
        print(f"  {'both' if backward else 'forward'}: " + ", ".join(f"{tuple(b)} {ms:.3f} ms" for b, ms in best))


# --- scores of a head -------------------------------------------------------------------------------------------------


def logprobs() -> None:
    """Scores in tiles by Triton's and by torch's kernels, and from whole logits."""
    for tokens, size, vocabulary in ((16_384, 576, 49_152), (8_192, 1536, 151_936)):
        hidden = torch.randn(tokens, size, device=GPU, dtype=torch.bfloat16).requires_grad_()
        weight = torch.randn(vocabulary, size, device=GPU, dtype=torch.bfloat16).mul_(0.05).requires_grad_()
        targets = torch.randint(vocabulary, (tokens,), device=GPU)
        flops = 2 * tokens * size * vocabulary

        def tiled() -> Tensor:
            return torch.stack(head_scores(hidden, weight, None, targets, LogitRules())[:2])  # noqa: B023

        def whole() -> Tensor:
            return torch.stack(token_logprobs_and_entropy(linear(hidden, weight), targets))  # noqa: B023

        name = f"{tokens} x {size} x {vocabulary}, bf16"
        for power in (20, 22, 24, 25, 26, 27):
            with patch.object(head_logprobs, "GPU_TILE", 1 << power):
                ms = milliseconds(both_ways(tiled, (hidden, weight)))
            print(f"{name}: tiles of 2^{power} {ms:.2f} ms ({4 * flops / ms / 1e9:.0f} TF/s of 4 products)", flush=True)
        with patch.object(head_logprobs, "_tiles_of", lambda _: logprob_tiles):
            print(
                f"{name}: the same in plain torch {milliseconds(both_ways(tiled, (hidden, weight))):.2f} ms", flush=True
            )
        ms = milliseconds(both_ways(whole, (hidden, weight)))
        print(f"{name}: whole logits {ms:.2f} ms ({3 * flops / ms / 1e9:.0f} TF/s of 3 products)", flush=True)


# --- FP8 --------------------------------------------------------------------------------------------------------------


def fp8() -> None:
    """Products and a linear layer in FP8, beside bf16 and torch's own scaled product."""
    for tokens, inner, outputs in ((8192, 1536, 8960), (8192, 4096, 4096), (4096, 576, 1536)):
        x, weight = (torch.randn(n, inner, device=GPU) for n in (tokens, outputs))
        flops, name = 2 * tokens * inner * outputs, f"{tokens} x {inner} x {outputs}"
        for rows in (1, TILE):
            ms = milliseconds(lambda: fp8_blocks_triton.quantise(x, rows))  # noqa: B023
            print(f"{name}: quantise float32 by {rows} x 128: {ms:.3f} ms ({5 * x.numel() / ms / 1e6:.0f} GB/s)")
        a, b = fp8_blocks_triton.quantise(x, 1), fp8_blocks_triton.quantise(weight, TILE)
        halves = [t.bfloat16().requires_grad_() for t in (x, weight)]
        rate = milliseconds(lambda: linear(*halves))  # noqa: B023
        print(f"{name}: bf16 {rate:.3f} ms ({flops / rate / 1e9:.0f} TF/s)", flush=True)
        for sizes in (
            (64, 64, 4, 3),
            (128, 64, 4, 3),
            (128, 128, 4, 3),
            (128, 128, 8, 3),
            (128, 128, 8, 4),
            (64, 128, 4, 4),
        ):
            with patch.multiple(fp8_blocks_triton, ROWS=sizes[0], COLUMNS=sizes[1], WARPS=sizes[2], STAGES=sizes[3]):
                ms = milliseconds(lambda: fp8_blocks_triton.product(a, b))  # noqa: B023
            print(f"{name}: FP8 product {sizes} {ms:.3f} ms ({flops / ms / 1e9:.0f} TF/s)", flush=True)
        scales = a.scales_MC.t().contiguous().t(), b.scales_MC.t()
        ms = milliseconds(
            lambda: torch._scaled_mm(a.values_MK, b.values_MK.t(), *scales, out_dtype=torch.bfloat16)  # noqa: B023
        )
        print(f"{name}: torch's scaled product {ms:.3f} ms ({flops / ms / 1e9:.0f} TF/s)", flush=True)
        given = [t.clone().requires_grad_() for t in (x, weight)]
        with torch.autocast("cuda", torch.bfloat16):
            layer = milliseconds(both_ways(lambda: fp8_linear(*given), given))  # noqa: B023
            half = milliseconds(both_ways(lambda: linear(*given), given))  # noqa: B023
        print(f"{name}: linear layer both ways, FP8 {layer:.3f} ms, bf16 autocast {half:.3f} ms", flush=True)


# --- between the products ---------------------------------------------------------------------------------------------


def norms() -> None:
    """RMS norms and gated units, beside torch's own."""
    for tokens, size in ((8192, 576), (8192, 1536)):
        x, weight = (
            torch.randn(tokens, size, device=GPU, requires_grad=True),
            torch.ones(size, device=GPU, requires_grad=True),
        )
        for name, work in {
            "ours": lambda: rms_norm(x, weight, 1e-6),  # noqa: B023
            "torch": lambda: nn.functional.rms_norm(x, (size,), weight, 1e-6),  # noqa: B023
            "transformers": lambda: weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),  # noqa: B023
        }.items():
            print(
                f"rms norm {tokens} x {size}, {name}: {milliseconds(both_ways(work, (x, weight))):.3f} ms", flush=True
            )
        gate, up = (
            torch.randn(tokens, 4 * size, device=GPU, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)
        )
        for name, work in {"ours": lambda: gated_silu(gate, up), "torch": lambda: silu(gate) * up}.items():  # noqa: B023
            print(
                f"gated silu {tokens} x {4 * size}, {name}: {milliseconds(both_ways(work, (gate, up))):.3f} ms",
                flush=True,
            )


def main() -> None:
    """The command line."""
    parts = {
        "attention": attention,
        "attention64": lambda: attention(9, 3, 64),
        "logprobs": logprobs,
        "fp8": fp8,
        "norms": norms,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=parts, default=list(parts))
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for part in parser.parse_args().parts:
        parts[part]()


if __name__ == "__main__":
    main()
