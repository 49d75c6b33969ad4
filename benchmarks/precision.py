"""What FP8 costs in loss: the fine-tuning stage of a recipe, trained from one start in bf16 and in FP8.

    python benchmarks/precision.py recipes/quickstart.yaml [--steps 100] [--seeds 0 1 2] [--set stages.0.lr=1e-3]

Model, data and order are the same. Two differences to bf16, in parts of bf16's loss:

* `same weights`: along bf16's training, the loss of each step computed in FP8 as well, before the update. The mean and
  the largest of a step.
* `trained`: two trainings, the mean loss over all steps. They drift apart by rounding of any kind; `fp32` says how far.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def train(recipe: Any, precision: str, steps: int, watch: bool) -> tuple[list[float], list[float]]:
    """The loss of every step and, when it is watched, the same computed in FP8. A learner of FP8 trains in bf16 while
    its switch is off."""
    from accelerate import Accelerator

    from grpo.data import draw, load_problems
    from grpo.forward import prepare_packing
    from grpo.learner import Learner, train_step
    from grpo.objective import CrossEntropy
    from grpo.scratch import make_policy
    from grpo.stages.sft import encode, packed

    stage = recipe.stages[0].model_copy(update={"precision": precision})
    policy = make_policy(recipe.model.init, recipe.seed)
    prepare_packing(policy.model, policy.tokenizer)
    problems = load_problems(stage.problems, policy.tokenizer, recipe.seed)
    examples = encode(problems.train, stage, policy.tokenizer, None)
    learner = Learner(policy.model, stage, steps, Accelerator(), dropout=True)
    watcher = Learner(policy.model, stage.model_copy(update={"precision": "fp8_block"}), steps, learner.accelerator)
    losses, watched = [], []
    for step in range(steps):
        drawn = draw(problems.train, recipe.seed, step * stage.examples_per_step, stage.examples_per_step)
        sequences = [examples[problem.id] for problem in drawn]
        objective = CrossEntropy(sum(len(sequence.target_ids) for sequence in sequences))
        batches = packed(sequences, learner)
        if watch:
            watched.append(loss(watcher, batches, objective))
        losses.append(train_step(learner, batches, objective, step).figures()["loss"])
    return losses, watched


def loss(learner: Any, batches: Sequence[Any], objective: Any) -> float:
    """Of a minibatch, without learning from it."""
    import torch

    total = 0.0
    for batch in batches:
        with torch.no_grad(), learner.autocast():
            total += objective(learner.model, batch)[0].item()
    return total


def gap(values: Sequence[float], base: Sequence[float]) -> float:
    """The difference of the means."""
    return statistics.fmean(values) / statistics.fmean(base) - 1


def line(seed: int, bf16: Sequence[float], watched: Sequence[float], others: dict[str, Sequence[float]]) -> str:
    """A seed's differences."""
    worst = max((abs(a / b - 1) for a, b in zip(watched, bf16, strict=True)))
    trained = ", ".join(f"{name} {gap(values, bf16):+.3%}" for name, values in others.items())
    mean = statistics.fmean(bf16)
    return f"seed {seed}: loss {mean:.5f}; same weights {gap(watched, bf16):+.4%}, worst {worst:.3%}; trained {trained}"


if __name__ == "__main__":
    from grpo.recipe_file import load_recipe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--others", nargs="*", default=["fp8_block"], help="precisions trained beside bf16")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    gaps: dict[str, list[float]] = {name: [] for name in options.others}
    for seed in options.seeds:
        recipe = load_recipe(options.recipe, [f"seed={seed}", *options.set])
        bf16, watched = train(recipe, "bf16", options.steps, watch=True)
        others = {name: train(recipe, name, options.steps, watch=False)[0] for name in options.others}
        print(line(seed, bf16, watched, others), flush=True)
        for name, values in others.items():
            gaps[name].append(gap(values, bf16))
    for name, found in gaps.items():
        if len(found) > 1:
            error = statistics.stdev(found) / len(found) ** 0.5
            print(f"{name}: trained {statistics.fmean(found):+.3%} +- {error:.3%} over {len(found)} seeds")
