"""What FP8 costs in loss: the fine-tuning stage of a recipe, trained from one start in several precisions.

    python benchmarks/precision.py run recipes/quickstart.yaml --out precision.jsonl [--variants bf16 fp8_block]
        [--seeds 0 1 2] [--steps 100] [--set stages.0.lr=1e-3]
    python benchmarks/precision.py table precision.jsonl

Of one seed, every variant has the same start, data and order; each is a line of the file, so they may run side by
side. `twin` is bf16 from a start whose weights are off by as much as bf16 rounds: how far it comes out from bf16 is
what any rounding does, since small differences grow. The table has differences to bf16 in parts of bf16's loss, means
over seeds with their standard errors:

* `same weights`: along bf16's training, the loss of each step computed in FP8 as well, before the update.
* `training`: the mean loss over all steps of two trainings, each in its own precision, as DeepSeek-V3 compares them.
* `held out`: the same of one fixed batch after every step, both in float32: what became of the weights.
* `at the end`: the same over the last fifth of the steps.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import results

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

BASE, TWIN = "bf16", "twin"
VARIANTS = (BASE, TWIN, "fp32", "fp8_block")
ROUNDING = 2.0**-9
"""The relative error of a number in bf16."""


def train(recipe: Any, variant: str, steps: int) -> dict[str, Any]:
    """The loss of every step, the held-out loss after it and, of the base, the step's loss in FP8 too.

    A learner of FP8 trains in bf16 while its switch is off.
    """
    from accelerate import Accelerator

    from grpo.data import draw, load_problems
    from grpo.forward import prepare_packing
    from grpo.learner import Learner, train_step
    from grpo.objective import CrossEntropy
    from grpo.scratch import make_policy
    from grpo.stages.sft import encode, packed

    accelerator = Accelerator()
    stage = recipe.stages[0].model_copy(update={"precision": BASE if variant == TWIN else variant})
    policy = make_policy(recipe.model.init, recipe.seed)
    if variant == TWIN:
        perturb(policy.model, recipe.seed)
    policy.model.to(accelerator.device)
    prepare_packing(policy.model, policy.tokenizer)
    problems = load_problems(stage.problems, policy.tokenizer, recipe.seed)
    examples = encode([*problems.train, *problems.held_out], stage, policy.tokenizer, None)
    learner = Learner(policy.model, stage, steps, accelerator, dropout=True)
    fp8_stage = stage.model_copy(update={"precision": "fp8_block"})
    watcher = Learner(policy.model, fp8_stage, steps, accelerator) if variant == BASE else None
    unseen = [examples[problem.id] for problem in problems.held_out[: stage.examples_per_step]]
    losses, held_out, watched = [], [], []
    for step in range(steps):
        drawn = draw(problems.train, recipe.seed, step * stage.examples_per_step, stage.examples_per_step)
        sequences = [examples[problem.id] for problem in drawn]
        objective = CrossEntropy(sum(len(sequence.target_ids) for sequence in sequences))
        batches = packed(sequences, stage.tokens_per_micro_batch, learner)
        if watcher is not None:
            watched.append(loss(watcher, batches, objective))
        losses.append(train_step(learner, batches, objective, step).figures()["loss"])
        held_out.append(plain_loss(policy.model, packed(unseen, stage.tokens_per_micro_batch, learner)))
    return {"device": accelerator.device.type, "loss": losses, "held_out": held_out, "watched": watched}


def perturb(model: Any, seed: int) -> None:
    """Move every weight by a random part of itself, as large as a rounding to bf16."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + ROUNDING * (2 * torch.rand(parameter.shape, generator=generator) - 1)


def loss(learner: Any, batches: Sequence[Any], objective: Any) -> float:
    """Of a minibatch in a learner's precision, without learning from it."""
    import torch

    with torch.no_grad(), learner.autocast():
        return sum(objective(learner.model, batch)[0].item() for batch in batches)


def plain_loss(model: Any, batches: Sequence[Any]) -> float:
    """A token's mean in float32."""
    import torch

    from grpo.forward import target_logprobs

    with torch.no_grad():
        return -torch.cat([target_logprobs(model, batch) for batch in batches]).mean().item()


# --- the table --------------------------------------------------------------------------------------------------------


def gap(values: Sequence[float], base: Sequence[float]) -> float:
    """The difference of the means, as a part of the base's."""
    return statistics.fmean(values) / statistics.fmean(base) - 1


def last_fifth(losses: Sequence[float]) -> Sequence[float]:
    """The last steps."""
    return losses[-max(1, len(losses) // 5) :]


def table(records: Sequence[dict[str, Any]]) -> None:
    """Print what every variant that has a base of its seed differs from it."""
    bases = {record["seed"]: record for record in records if record["variant"] == BASE}
    print(f"bf16: loss {results.with_error([statistics.fmean(b['loss']) for b in bases.values()], '.4f')}")
    columns: dict[str, Callable[[Any, Any], float]] = {
        "training": lambda one, base: gap(one["loss"], base["loss"]),
        "held out": lambda one, base: gap(one["held_out"], base["held_out"]),
        "at the end": lambda one, base: gap(last_fifth(one["held_out"]), last_fifth(base["held_out"])),
    }
    print("| variant | seeds | " + " | ".join(columns) + " |")
    print("|---" * (2 + len(columns)) + "|")
    for variant in VARIANTS:
        pairs = [(r, bases[r["seed"]]) for r in records if r["variant"] == variant != BASE and r["seed"] in bases]
        if pairs:
            cells = [results.with_error([of(one, base) for one, base in pairs], "+.2%") for of in columns.values()]
            print(f"| {variant} | {len(pairs)} | " + " | ".join(cells) + " |")
    same = [gap(base["watched"], base["loss"]) for base in bases.values()]
    worst = [abs(a / b - 1) for base in bases.values() for a, b in zip(base["watched"], base["loss"], strict=True)]
    print(
        f"FP8 on the same weights, {len(same)} seeds: {results.with_error(same, '+.3%')}, worst step {max(worst):.2%}"
    )


def main() -> None:
    """Run variants, or show those that have run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("recipe", type=Path)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--steps", type=int, default=100)
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    commands.add_parser("table").add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "table":
        table(results.read(options.files))
        return
    from grpo.recipe_file import load_recipe

    for seed in options.seeds:
        recipe = load_recipe(options.recipe, [f"seed={seed}", *options.set])
        for variant in options.variants:
            start = time.perf_counter()
            figures = train(recipe, variant, options.steps)
            seconds = time.perf_counter() - start
            results.add(options.out, {"variant": variant, "seed": seed, "seconds": seconds, **figures})


if __name__ == "__main__":
    main()
