"""What self-speculative decoding is worth: tokens a second with and without it, in the policy's own engine.

    python benchmarks/speculative.py run recipes/self_speculative.yaml runs/self-speculative/02-grpo/model [--pairs 5]
        [--rows 1 8] [--temperatures 0 1] [--depth 12] [--out speculative.jsonl]
    python benchmarks/speculative.py table speculative.jsonl

Both sides answer the recipe's held-out problems in one process, in turn, after a round that warms up. Greedy text is
checked to be the same; in sampling, both have the policy's distribution, and lengths differ by chance. The ratio is
that of the medians of tokens a second; beside it stand the least and the largest of a pair. `--depth` puts layers that
add nothing behind the policy's own, so that texts and drafts are those of the policy and a pass costs more.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torch

from grpo.data import load_problems
from grpo.grpo_stage import GrpoStage
from grpo.model_settings import ModelSettings
from grpo.mtp import plain_model, resize_config
from grpo.mtp_settings import SpeculativeSettings
from grpo.policy import Policy, load_policy
from grpo.recipe_file import load_recipe
from grpo.rollout.collect import draft_figures
from grpo.rollout.engine import SampleRequest, Sampling
from grpo.rollout.transformers_engine import TransformersEngine
from grpo.types import Completion


def answers(
    policy: Policy, requests: list[SampleRequest], rows: int, sampling: Sampling, drafts: bool
) -> tuple[list[Completion], float]:
    """The completions, and the seconds that they took."""
    settings = SpeculativeSettings() if drafts else None
    engine = TransformersEngine(policy.model, policy.tokenizer, rows, "fp32", speculative=settings)
    start = time.perf_counter()
    groups = engine.generate(requests, sampling)
    return [completion for group in groups for completion in group], time.perf_counter() - start


def compare(
    policy: Policy, prompts: list[tuple[int, ...]], rows: int, sampling: Sampling, pairs: int
) -> dict[str, Any]:
    """Tokens a second of both sides in every pair, and how the drafts fared."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    figures: list[dict[str, float]] = []
    for pair in range(pairs + 1):
        requests = [SampleRequest(prompt, (1000 * pair + place,)) for place, prompt in enumerate(prompts)]
        texts = []
        for drafts in speeds:
            completions, seconds = answers(policy, requests, rows, sampling, drafts)
            texts.append([completion.text for completion in completions])
            if pair:
                speeds[drafts].append(sum(len(completion.token_ids) for completion in completions) / seconds)
        figures.append(draft_figures(completions))
        assert sampling.temperature or texts[0] == texts[1], "greedy text differs"
    means = {name: statistics.mean(found[name] for found in figures) for name in figures[0]}
    return {"plain": speeds[False], "drafts": speeds[True], **means}


def deepen(policy: Policy, depth: int) -> None:
    """Put copies of the last layer behind it, with nothing to add to what passes through."""
    base: Any = plain_model(policy.model)
    layers, own = base.get_decoder().layers, base.config.num_hidden_layers
    for place in range(own, depth):
        layer = copy.deepcopy(layers[own - 1], {id(base.config): base.config})
        for name, parameter in layer.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.data.zero_()
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
        layers.insert(place, layer)
    resize_config(base.config, max(0, depth - own))


def table(records: Sequence[dict[str, Any]]) -> None:
    """Print a row for every comparison."""
    columns = "layers, rows, threads, temperature, plain, with drafts, ratio, of pairs, drafts right, tokens a pass"
    print("| " + columns.replace(", ", " | ") + " |")
    print("|---" * 10 + "|")
    for one in records:
        plain, drafted = statistics.median(one["plain"]), statistics.median(one["drafts"])
        ratios = [b / a for a, b in zip(one["plain"], one["drafts"], strict=True)]
        print(
            f"| {one['layers']} | {one['rows']} | {one['threads']} | {one['temperature']:g} | {plain:.0f} | "
            f"{drafted:.0f} | {drafted / plain:.2f} | {min(ratios):.2f} to {max(ratios):.2f} | "
            f"{one['speculative/acceptance']:.1%} | {one['speculative/tokens_per_pass']:.2f} |",
            flush=True,
        )


def run(options: argparse.Namespace) -> None:
    """Compare at several sizes of a batch and temperatures."""
    recipe = load_recipe(options.recipe, [])
    stage = next(stage for stage in recipe.stages if isinstance(stage, GrpoStage))
    policy = load_policy(ModelSettings(path=options.model), options.model)
    deepen(policy, options.depth)
    problems = load_problems(stage.problems, policy.tokenizer, recipe.seed)
    prompts = [problems.prompt_ids[problem.id] for problem in problems.held_out[: options.problems]]
    layers: int = policy.model.config.num_hidden_layers  # type: ignore[assignment, union-attr]
    for rows in options.rows:
        for temperature in options.temperatures:
            sampling = Sampling(temperature, stage.rollout.max_new_tokens)
            found = compare(policy, prompts, rows, sampling, options.pairs)
            setting = {"layers": layers, "rows": rows, "temperature": temperature, "threads": torch.get_num_threads()}
            table([setting | found])
            if options.out is not None:
                results.add(options.out, setting | found)


def main() -> None:
    """Run comparisons, or show those that have run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("recipe", type=Path)
    measure.add_argument("model")
    measure.add_argument("--pairs", type=int, default=5)
    measure.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    measure.add_argument("--problems", type=int, default=64)
    measure.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    measure.add_argument("--depth", type=int, default=0)
    measure.add_argument("--out", type=Path)
    commands.add_parser("table").add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        table(results.read(options.files))


if __name__ == "__main__":
    main()
