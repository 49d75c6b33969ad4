"""How fast rollouts are: this toolkit over a bare `LLM.generate`, and its two engines against each other.

    python benchmarks/rollout.py overhead models/smollm2-135m [--pairs 5] [--dtype bfloat16]
    python benchmarks/rollout.py engines models/smollm2-135m [--pairs 3]
    python benchmarks/rollout.py engines MODEL --samples RUN/01-zero/samples.jsonl --temperature 1.3 --new 48

Each run is a process of its own, the two sides in turn. Both sample the same prompts with the same seeds, vLLM with the
same settings, and stop at the same length. Prompts are plain tokens, or a run's, which may begin alike. A first, short
rollout warms up and is not counted. What is compared is completion tokens a second; the ratio is that of medians.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

PROMPTS, COMPLETIONS, PROMPT_TOKENS = 8, 8, 45

Rollout = Callable[[int], int]
"""Samples with a seed and returns how many tokens."""


@dataclass(frozen=True)
class Task:
    """What both sides sample: completions of at most `new` tokens."""

    prompts: list[tuple[int, ...]]
    new: int
    temperature: float


def plain_tokens() -> list[tuple[int, ...]]:
    """Prompts, the same in every process."""
    rng = random.Random(0)
    return [tuple(rng.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)) for _ in range(PROMPTS)]


def sampled_prompts(samples: str, model: str) -> list[tuple[int, ...]]:
    """The last prompts of a run's samples, twice as many as plain ones."""
    from grpo.loading import any_tokenizer

    rows = map(json.loads, Path(samples).read_text(encoding="utf-8").splitlines())
    texts = list(dict.fromkeys(row["prompt"] for row in rows))[-2 * PROMPTS :]
    tokenizer = any_tokenizer(model)
    return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def ours(path: str, engine: str, dtype: str, task: Task) -> Rollout:
    """This toolkit's engine, through the interface that a stage uses."""
    from grpo.engine_settings import RolloutSettings
    from grpo.forward import prepare_packing
    from grpo.model_settings import ModelSettings
    from grpo.policy import load_policy
    from grpo.rollout.engine import SampleRequest, Sampling
    from grpo.rollout.make_engine import Work, make_engine

    side_by_side = {"max_concurrent": len(task.prompts) * COMPLETIONS}
    settings = {"engine": engine, **side_by_side, **({"vllm": {"dtype": dtype}} if engine == "vllm" else {})}
    policy = load_policy(ModelSettings(path=path), path)
    precision = "bf16" if (engine, dtype) == ("transformers", "bfloat16") else "fp32"
    if engine == "transformers":
        prepare_packing(policy.model, policy.tokenizer)  # as a stage does
    work = Work(task.prompts, task.new, task.temperature, precision, Path())
    started = make_engine(RolloutSettings.model_validate(settings), policy, work)
    started.load_weights(policy.model, 0)

    def rollout(seed: int) -> int:
        requests = [
            SampleRequest(prompt, tuple(seed + COMPLETIONS * i + j for j in range(COMPLETIONS)))
            for i, prompt in enumerate(task.prompts)
        ]
        groups = started.generate(requests, Sampling(task.temperature, task.new))
        return sum(len(completion.token_ids) for group in groups for completion in group)

    return rollout


def bare(path: str, dtype: str, task: Task) -> Rollout:
    """vLLM alone, started with the arguments that the toolkit would start it with."""
    from grpo.engine_settings import RolloutSettings
    from grpo.pretrained import load_config
    from grpo.rollout.vllm_options import Load, vllm_options

    options = vllm_options(
        RolloutSettings(),
        path,
        load_config(path),
        dtype,
        Load(max(map(len, task.prompts)) + task.new),
    )
    os.environ.update(options.environment | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    from vllm import LLM, SamplingParams

    llm = LLM(**options.arguments, disable_log_stats=True)

    def rollout(seed: int) -> int:
        llm.reset_prefix_cache()
        rows = [(i, j) for i in range(len(task.prompts)) for j in range(COMPLETIONS)]
        params = [
            SamplingParams(
                temperature=task.temperature, max_tokens=task.new, seed=seed + COMPLETIONS * i + j, logprobs=0
            )
            for i, j in rows
        ]
        outputs = llm.generate([{"prompt_token_ids": list(task.prompts[i])} for i, _ in rows], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return rollout


def measure(rollout: Rollout, repeats: int) -> list[float]:
    """Tokens a second of each repeat, after one that warms up."""
    rollout(10_000)
    speeds = []
    for repeat in range(repeats):
        start = time.perf_counter()
        tokens = rollout(1000 * repeat)
        speeds.append(tokens / (time.perf_counter() - start))
    return speeds


def compare(sides: dict[str, list[str]], pairs: int) -> None:
    """Run each side in a process of its own, in turn, and say the ratio of medians of the first to the second."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name, arguments in sides.items():
            done = subprocess.run(
                [sys.executable, __file__, "one", *arguments], capture_output=True, text=True, check=True
            )
            speeds[name] += json.loads(done.stdout.splitlines()[-1])
            print(f"pair {pair + 1}, {name}: {[round(s, 1) for s in speeds[name]]} tokens/s", flush=True)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    first, second = medians.values()
    print(f"medians {medians}; ratio {first / second:.3f}")


def main() -> None:
    """Choose what to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "engines", "one"])
    parser.add_argument("model")
    parser.add_argument("--side", choices=["vllm", "transformers", "bare"], default="vllm")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--new", type=int, default=0, help="new tokens of a completion; 64 for overhead, 256 for engines"
    )
    parser.add_argument("--samples", help="a run's samples.jsonl, whose prompts are taken")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    new = options.new or (256 if options.what == "engines" else 64)
    if options.what == "one":
        prompts = sampled_prompts(options.samples, options.model) if options.samples else plain_tokens()
        task = Task(prompts, new, options.temperature)
        side = bare(options.model, options.dtype, task) if options.side == "bare" else None
        print(json.dumps(measure(side or ours(options.model, options.side, options.dtype, task), options.repeats)))
        return
    common = [options.model, "--dtype", options.dtype, "--new", str(new), "--repeats", str(options.repeats)]
    common += ["--temperature", str(options.temperature), *(["--samples", options.samples] if options.samples else [])]
    other = "bare" if options.what == "overhead" else "transformers"
    compare({name: [*common, "--side", name] for name in ("vllm", other)}, options.pairs)


if __name__ == "__main__":
    main()
