"""`grpo upcycle` and `grpo to-mla`: their arguments, and what they print."""

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add both to the subparsers of `grpo`."""
    _add_upcycle(
        commands.add_parser("upcycle", help="turn a dense model into a mixture of experts that computes the same")
    )
    _add_to_mla(commands.add_parser("to-mla", help="turn grouped-query attention into multi-head latent attention"))


def _add_upcycle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", help="a dense model: a folder or the name of a hub model")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--experts", type=int, required=True, help="routed experts of a layer")
    parser.add_argument("--top-k", type=int, required=True, help="of which a token meets so many")
    parser.add_argument("--shared", type=int, default=1, help="shared experts, each as wide as the dense network")
    parser.add_argument("--granularity", type=int, default=1, help="routed experts are this many times narrower")
    parser.add_argument("--scale", type=float, help="the sum of the gate weights; the granularity by default")
    parser.add_argument("--dense-layers", type=int, default=1, help="first layers that stay dense")
    parser.add_argument(
        "--symmetry", choices=["drop", "noise", "none"], default="drop", help="how copies are made to differ"
    )
    parser.add_argument(
        "--amount", type=float, help="share of units drawn anew (drop, 0.5) or size of the noise (0.02)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_upcycle)


def _upcycle(options: argparse.Namespace) -> None:
    from grpo.convert.upcycle import Upcycling, upcycle

    chosen = {key: value for key, value in vars(options).items() if key not in ("run", "src", "out")}
    sizes = upcycle(options.src, options.out, Upcycling(**chosen))
    print(
        f"wrote {options.out}: {sizes.total:,} parameters, of which a token meets {sizes.active:,}; "
        f"{options.src} has {sizes.dense:,}"
    )


def _add_to_mla(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", help="a Llama or an upcycled one: a folder or the name of a hub model")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--rank", type=int, required=True, help="numbers of a latent, which stands for keys and values")
    parser.add_argument("--text", type=Path, required=True, help="a text file that shows what matters, and measures")
    parser.add_argument("--rope", type=int, help="numbers of the rotary key; half a head by default")
    parser.add_argument("--nope", type=int, help="numbers of a head's keys without rotation; a whole head by default")
    parser.add_argument("--window", type=int, default=512, help="tokens that are seen together")
    parser.add_argument("--calibration-tokens", type=int, default=16_384, help="tokens to learn from, at most")
    parser.add_argument("--perplexity-tokens", type=int, default=16_384, help="tokens to measure on, at most")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the text, its end, that measures")
    parser.set_defaults(run=_to_mla)


def _to_mla(options: argparse.Namespace) -> None:
    from grpo.convert.to_mla import Latents, to_mla

    chosen = {key: value for key, value in vars(options).items() if key not in ("run", "src", "out")}
    done = to_mla(options.src, options.out, Latents(**chosen))
    before, after = done.cached_before, done.cached_after
    print(f"wrote {options.out}")
    print(
        f"perplexity on {done.tokens:,} tokens: {done.perplexity_before:.3f} before, {done.perplexity_after:.3f} after"
    )
    print(f"cache: {2 * before:,} bytes a token before, {2 * after:,} after ({after / before:.0%}), in bfloat16")
    if done.note:
        print(done.note)
