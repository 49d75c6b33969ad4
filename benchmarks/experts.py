"""What an even load of experts, and replaying their routing, are worth on a small DeepSeek-V3-style policy.

    python benchmarks/experts.py balance /tmp/balance [--variants 0-fp32 0.01-fp32] [--seeds 0 1 2] [--steps 300]
    python benchmarks/experts.py table /tmp/balance
    python benchmarks/experts.py replay /tmp/balance [--rollouts 6] [--precision bf16]

`balance` fine-tunes a policy whose routers give nearly every token to two of sixteen experts, without a bias update and
with one. A variant is the rate of the update and the precision; each leaves a line in balance.jsonl, so several
processes may share the folder. `table` prints MaxVio, experts without a token and loss over the steps, means over seeds
with standard errors. `replay` lets the policy that `balance` left in the folder learn from each of several rollouts in
eight updates, with routing replay none, policy (R2) and sampler (R3), and prints how far its log-probabilities are from
the sampler's before the first update and before the last.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import results

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

Row = dict[str, float]
SHIFT = 3.0
"""What is added to the logits of two experts: sigmoid(3) is 0.95, where the others have 0.5."""
VARIANTS = ("0-fp32", "0.003-fp32", "0.01-fp32", "0.01-bf16")
"""Rates of the bias update, and precisions; under bf16 the weights are bfloat16 as well."""
WATCHED = ("router/max_violation", "router/dead", "loss", "router/bias_range")

INIT = {
    "architecture": "deepseek_v3",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "max_position_embeddings": 256,
    },
    "tokenizer": {"kind": "bytes", "special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]},
}
FACTS = {"size": 900, "terms": 2, "max_value": 30}
"""Sums with much to remember."""


def run(folder: Path, name: str, stage: dict[str, Any], **recipe: Any) -> list[Row]:
    """Run a recipe of one stage and return its figures."""
    import yaml

    from grpo.cli import train

    recipe |= {
        "name": name,
        "output": str(folder),
        "problems": {"function": "grpo.tasks.arithmetic:sums", "params": FACTS, "template": {"kind": "plain"}},
        "rewards": [{"name": "accuracy"}, {"name": "format", "weight": 0.25}],
        "stages": [stage],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    if train([str(file)]) != 0:
        raise SystemExit(1)
    log = folder / name / f"01-{stage['kind']}" / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def sft(steps: int, **changes: Any) -> dict[str, Any]:
    """The quickstart's cold start."""
    basis = {"kind": "sft", "steps": steps, "examples_per_step": 32, "lr": 4e-3, "warmup_steps": 10}
    return basis | {"lr_schedule": "linear", "checkpoint_every": 50} | changes


# --- balance ----------------------------------------------------------------------------------------------------------


def unbalanced(folder: Path, seed: int) -> str:
    """A policy whose routers prefer experts 0 and 1, whatever the token: their weights lie along the mean input."""
    import torch

    from grpo.batch import pack
    from grpo.experts.observe import routers_of
    from grpo.forward import target_logprobs
    from grpo.model_settings import InitSettings
    from grpo.policy import save_policy
    from grpo.scratch import make_policy
    from grpo.tasks.arithmetic import sums
    from grpo.types import TokenSequence

    policy = make_policy(InitSettings.model_validate(INIT), seed)
    texts = [policy.tokenizer.encode(row["prompt"] + row["completion"]) for row in sums(64, terms=4, max_value=5)]
    tokens = pack([TokenSequence(tuple(ids[:1]), tuple(ids[1:])) for ids in texts], torch.device("cpu"))

    def lean(router: Any, inputs: tuple[torch.Tensor]) -> None:
        mean_D = inputs[0].detach().flatten(0, -2).mean(0)
        router.weight.data[:2] += SHIFT * mean_D / mean_D.square().sum()

    handles = [router.register_forward_pre_hook(lean) for router in routers_of(policy.model)]
    with torch.no_grad():
        target_logprobs(policy.model, tokens)
    for handle in handles:
        handle.remove()
    save_policy(policy, folder)
    return str(folder)


def balance(folder: Path, variant: str, seed: int, steps: int) -> None:
    """Train from the seed's unbalanced start, and add the figures of every step to balance.jsonl."""
    name = f"{variant}-{seed}"
    rate, precision = variant.split("-")
    stage = sft(steps, examples_per_step=16, experts={"bias_update_rate": float(rate)}, precision=precision)
    dtype = "float32" if precision == "fp32" else "bfloat16"
    start = unbalanced(folder / f"start-{name}", seed)
    rows = run(folder, name, stage, model={"path": start, "dtype": dtype}, seed=seed)
    if not float(rate):
        rows = [row | {"router/bias_range": 0.0} for row in rows]
    curves = {figure: [row[figure] for row in rows] for figure in WATCHED}
    results.add(folder / "balance.jsonl", {"variant": variant, "seed": seed, **curves})


def table(folder: Path) -> None:
    """Print the means over 20 steps, and those over seeds with standard errors."""
    records = results.read([folder / "balance.jsonl"])
    found = {name: [r for r in records if r["variant"] == name] for name in VARIANTS}
    curves = {name: runs for name, runs in found.items() if runs}
    steps = len(records[0]["loss"])
    print("| step | " + " | ".join(f"{name} ({len(runs)}): MaxVio, dead, loss" for name, runs in curves.items()) + " |")
    print("|---" * (1 + len(curves)) + "|")
    for end in [end for end in (1, 25, 50, 75, *range(100, steps + 1, 50)) if end <= steps]:
        cells = [", ".join(_around(runs, figure, end) for figure in WATCHED[:3]) for runs in curves.values()]
        print(f"| {end} | " + " | ".join(cells) + " |")
    for name, runs in curves.items():
        print(f"{name}: bias range at the end {results.with_error([r['router/bias_range'][-1] for r in runs], '.4f')}")


def _around(runs: list[dict[str, Any]], figure: str, end: int) -> str:
    windows = [run[figure][max(0, end - 20) : end] for run in runs]
    return results.with_error([sum(w) / len(w) for w in windows], ".3f" if figure == "loss" else ".2f")


# --- replay -----------------------------------------------------------------------------------------------------------


def replay(folder: Path, rollouts: int, precision: str) -> None:
    """Let a policy learn in several updates from the same rollouts, three ways."""
    first = tuple(f"sampler/{name}" for name in ("mismatch_mean", "mismatch_max", "kl"))
    names = (*first, *(f"{name}_last" for name in first), "ratio/clipped", "router/rerouted")
    start = {"path": str(folder / "0.01-fp32-0" / "01-sft" / "model")}
    print(f"| {precision}, replay | " + " | ".join(names) + " |")
    for kind in ("none", "policy", "sampler"):
        stage = {
            "kind": "grpo",
            "steps": 1,
            "prompts_per_step": 8,
            "minibatches_per_step": 4,
            "epochs_per_step": 2,
            "lr": 3e-4,
            "kl": {"beta": 0},
            "precision": precision,
            "rollout": {"engine": "transformers", "max_new_tokens": 48},
            "experts": {"routing_replay": kind},
        }
        rows = [run(folder, f"{precision}-{kind}-{seed}", stage, model=start, seed=seed)[0] for seed in range(rollouts)]
        print(
            f"| {precision}, {kind} | " + " | ".join(f"{sum(r[n] for r in rows) / rollouts:.5f}" for n in names) + " |"
        )


def main() -> None:
    """Run the experiment that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("balance", "table", "replay"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rollouts", type=int, default=6)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "replay":
        replay(options.folder, options.rollouts, options.precision)
    elif options.what == "table":
        table(options.folder)
    else:
        for seed in options.seeds:
            for variant in options.variants:
                balance(options.folder, variant, seed, options.steps)


if __name__ == "__main__":
    main()
