"""`grpo upcycle` and `grpo to-mla`: their arguments, and what they print."""

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add both to the subparsers of `grpo`."""
    _add_upcycle(
        commands.add_parser("upcycle", help="turn a dense model into a mixture of experts that computes the same")
    )


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
