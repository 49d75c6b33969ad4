"""How the time and memory of the learner's passes grow.

python benchmarks/growth.py sweep models/smollm2-135m [--device cuda] [--dtype bf16]
python benchmarks/growth.py memory [--device cuda]
"""

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import clock
import torch
from torch import Tensor


def sweep(model_path: str, device: str, dtype: str) -> None:
    """Seconds of forward and backward pass over prompt length P, completion length L, completions G and groups N."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grpo.forward import prepare_packing

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).to(device)
    prepare_packing(model, AutoTokenizer.from_pretrained(model_path))
    more = 8 if device == "cuda" else 1  # so that a GPU has something to do
    base = {"P": 64 * more, "L": 64 * more, "G": 8, "N": 1}
    ranges = {"N": [1, 2, 4, 8], "L": [32, 64, 128, 256], "G": [4, 8, 16, 32], "P": [64, 128, 256, 512]}
    ranges |= {axis: [more * value for value in ranges[axis]] for axis in "LP"}
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
        _pass(model, **base)
        for axis, values in ranges.items():
            seconds = [_best(model, **base | {axis: value}) for value in values]
            said = ", ".join(f"{s:.3g}" for s in seconds)
            print(f"{axis} {values}: {said} s, exponent {_slope(values, seconds):.3f}", flush=True)
        short, long = 64 * more, 448 * more
        for count in (2, 8, 32):
            cost = _best(model, P=long, L=2 * more, G=count, N=1) - _best(model, P=short, L=2 * more, G=count, N=1)
            print(f"G {count}: {long - short} more prompt tokens cost {cost:.3g} s", flush=True)


def _best(model: Any, **sizes: int) -> float:
    return min(clock.seconds(partial(_pass, model, **sizes), model.device.type) for _ in range(3))


def _pass(model: Any, P: int, L: int, G: int, N: int) -> None:
    from grpo.batch import pack
    from grpo.forward import target_logprobs
    from grpo.types import TokenSequence

    random_ids = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(49000, (count,), generator=random_ids).tolist())

    for _ in range(N):  # a group is a micro-batch
        prompt = ids(P)
        tokens = pack([TokenSequence(prompt, ids(L)) for _ in range(G)], model.device)
        target_logprobs(model, tokens).sum().backward()
    model.zero_grad()


def _slope(sizes: list[int], seconds: list[float]) -> float:
    """Of a straight line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    return statistics.linear_regression(x, y).slope


def memory(device: str) -> None:
    """Peak memory of the log-probability step, without the weights and their gradient, by vocabulary and tokens."""
    for vocabulary in (16_384, 49_152, 151_936):
        for tokens in (512, 2048) if device == "cpu" else (2048, 16_384):
            row = [_peak(way, vocabulary, tokens, device) for way in ("tiles", "whole")]
            print(
                f"vocabulary {vocabulary}, {tokens} tokens: tiles {row[0]:.0f} MB, whole logits {row[1]:.0f} MB",
                flush=True,
            )


def _peak(way: str, vocabulary: int, tokens: int, device: str) -> float:
    if device == "cuda":
        return step(way, vocabulary, tokens, device)
    command = [sys.executable, __file__, "step", way, str(vocabulary), str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def step(way: str, vocabulary: int, tokens: int, device: str = "cpu") -> float:
    """How far one log-probability step in this process raises peak memory, in MB."""
    from grpo.kernels.head_logprobs import LogitRules, head_scores
    from grpo.kernels.logprobs import token_logprobs_and_entropy

    hidden = torch.randn(tokens, 576, device=device).requires_grad_()
    weight = torch.randn(vocabulary, 576, device=device).mul_(0.1).requires_grad_()  # logits with a spread of some nats
    hidden.grad, weight.grad = torch.ones_like(hidden), torch.ones_like(weight)
    targets = torch.randint(vocabulary, (tokens,), device=device)
    torch.ones(vocabulary, 576) @ torch.ones(576, 8)  # the gradient of the weights comes as one more of their size
    before = _highest(device)

    def scores() -> tuple[Tensor, Tensor]:
        if way == "tiles":
            return head_scores(hidden, weight, None, targets, LogitRules())[:2]
        return token_logprobs_and_entropy(hidden @ weight.T, targets)

    logprobs, entropy = scores()
    (logprobs - 0.01 * entropy).sum().backward()
    own = weight.numel() * 4 if device == "cuda" else 0
    return (_highest(device) - before - own) / 2**20


def _highest(device: str) -> float:
    """Bytes at most so far; on a GPU, since the last call."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sweeping = commands.add_parser("sweep")
    sweeping.add_argument("model")
    sweeping.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    remembering = commands.add_parser("memory")
    for command in (sweeping, remembering):
        command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    stepping = commands.add_parser("step")
    stepping.add_argument("way")
    stepping.add_argument("vocabulary", type=int)
    stepping.add_argument("tokens", type=int)
    settings = parser.parse_args()
    if settings.command == "sweep":
        sweep(settings.model, settings.device, settings.dtype)
    elif settings.command == "memory":
        memory(settings.device)
    else:
        print(step(settings.way, settings.vocabulary, settings.tokens))


if __name__ == "__main__":
    main()
