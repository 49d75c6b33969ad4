"""How long training takes to reach the reward that TRL's GRPOTrainer has at the end of its time.

    python benchmarks/time_to_reward.py benchmarks/time_to_reward.yaml --seeds 0 1 2 --minutes 30 --out runs/trl

Both train the model of the recipe's first grpo stage on its problems in the same order, with its prompts, rewards,
group size, loss, learning rate and seed, one process each, TRL first. TRL samples with transformers' generate, since
its vLLM stops at the first push of weights on a CPU (`--trl use_vllm=true` shows it); this toolkit as the recipe says.
`--trl` changes any other setting of TRL's, and its process keeps freed memory, as this toolkit's does.

The clock is a wall clock from the start of the process, imports and the engine's start included; held-out evaluations,
which neither needs to train, and the check that both read the same tokens stop it. The reward is a mean over the last
`--window` steps, and of both sides the time counts when it first was as high as TRL's is in the end. A line a step is
in `OUT/<who>-<seed>.jsonl`; what is there is not measured again, and `--report` draws what there is.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

BEGAN = time.time()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

Row = dict[str, Any]
"""`seconds` on the clock after a `step`, its mean `reward`, and held-out `accuracy` where it was measured."""

WHO = ("trl", "ours")
LOSSES = {"grpo": "grpo", "dapo": "dapo", "dr_grpo": "dr_grpo"}
"""This toolkit's kind of loss, and TRL's name of the same."""


# --- the two sides ----------------------------------------------------------------------------------------------------


def run_ours(options: argparse.Namespace, seed: int, file: Path) -> None:
    """Start `grpo-train` on the recipe, stop it when its time is over, and keep a line a step."""
    output = options.out / f"run-{seed}"
    said = {"seed": seed, "output": output, f"{_stage(options, seed)[0]}.evaluation.every": options.every}
    said[f"{_stage(options, seed)[0]}.evaluation.problems"] = options.problems
    overrides = [*options.set, *(f"{key}={value}" for key, value in said.items())]
    command = [sys.executable, "-m", "grpo.cli", str(options.recipe), "--fresh"]
    with (options.out / f"ours-{seed}.log").open("wb") as log:
        began = time.time()
        process = subprocess.Popen([*command, *(f"--set={one}" for one in overrides)], stdout=log, stderr=log)
        rows: list[Row] = []
        while process.poll() is None and (not rows or rows[-1]["seconds"] < 60 * options.our_minutes):
            time.sleep(1)
            rows = _steps_of(output, began)
            _write(file, rows)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        elif not rows:
            sys.exit(f"grpo-train ended with {process.returncode}: see {log.name}")
        process.wait()
    _write(file, _steps_of(output, began))


def _steps_of(output: Path, began: float) -> list[Row]:
    """The steps of the first stage that has a reward, from its metrics.jsonl."""
    files = sorted(output.glob("*/*/metrics.jsonl"))
    text = files[0].read_text(encoding="utf-8") if files else ""
    rows, evaluating = [], 0.0
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            continue  # half written
        figures = json.loads(line)
        evaluating += figures.get("time/evaluate", 0.0)
        row = {"step": figures["step"], "seconds": figures["time"] - began - evaluating}
        named = {"reward": "reward/mean", "accuracy": "evaluation/accuracy"}
        rows.append(row | {ours: figures[name] for ours, name in named.items() if name in figures})
    return rows


def run_trl(options: argparse.Namespace, seed: int, file: Path) -> None:
    """Train with TRL in this process, and keep a line a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from grpo.allocator import keep_freed_memory
    from grpo.data import draw, load_problems
    from grpo.rewards.registry import load_rewards
    from grpo.rewards.score import score
    from grpo.rollout.stopping import decode
    from grpo.types import Completion, Group

    keep_freed_memory()
    recipe, stage = _stage(options, seed)[1:]
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    model = AutoModelForCausalLM.from_pretrained(recipe.model.path, dtype=getattr(torch, recipe.model.dtype))
    rewards, problems = load_rewards(stage.rewards), load_problems(stage.problems, tokenizer, seed)
    by_id = {problem.id: problem for problem in (*problems.train, *problems.held_out)}
    ids_of = problems.prompt_ids
    texts = {id: tokenizer.decode(ids) for id, ids in ids_of.items()}
    checking = time.time()
    for id, text in texts.items():
        if tuple(tokenizer(text=text)["input_ids"]) != tuple(ids_of[id]):
            sys.exit(f"the prompt of problem {id} is not the same tokens when TRL reads it")
    checking -= time.time()

    def scored(ids: Sequence[str], completions: Sequence[str]) -> list[Any]:
        """The verdicts of the recipe's own rewards."""
        groups = [
            Group(by_id[id], tuple(ids_of[id]), (Completion(text, (), (), "stop", 0),))
            for id, text in zip(ids, completions, strict=True)
        ]
        return [group.scores[0] for group in score(groups, rewards, stage.problems.each[0].template.prefill).groups]

    def total(completion_ids: Sequence[Sequence[int]], problem: Sequence[str], **_: Any) -> list[float | None]:
        return [verdict.total for verdict in scored(problem, [read_out(ids) for ids in completion_ids])]

    def read_out(ids: Sequence[int]) -> str:
        """A completion's text before its end as this toolkit reads it, special tokens and all."""
        return decode(tokenizer, ids[: list(ids).index(end)] if (end := tokenizer.eos_token_id) in ids else ids)

    class Watch(TrainerCallback):
        """Writes a line a step, measures held-out accuracy, and stops when the time is over."""

        evaluating = -checking

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "reward" in logs:
                row = {"step": state.global_step, "seconds": self.seconds(), "reward": logs["reward"]}
                last = row["seconds"] >= 60 * options.minutes
                row |= {"accuracy": self.accuracy()} if last or state.global_step % options.every == 0 else {}
                _append(file, row)
                control.should_training_stop = last

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            _append(file, {"step": 0, "seconds": self.seconds(), "accuracy": self.accuracy()})

        def seconds(self) -> float:
            return time.time() - BEGAN - self.evaluating

        def accuracy(self) -> float:
            """Greedy, on the held-out problems that this toolkit evaluates on."""
            began, asked, right = time.time(), problems.held_out[: options.problems], 0
            for start in range(0, len(asked), options.rows):
                ids = [problem.id for problem in asked[start : start + options.rows]]
                batch = tokenizer([texts[id] for id in ids], return_tensors="pt", padding=True, padding_side="left")
                batch = batch.to(model.device)
                model.eval()
                with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
                    made = model.generate(**batch, do_sample=False, max_new_tokens=stage.rollout.max_new_tokens)
                model.train()
                said = [read_out(row) for row in made[:, batch["input_ids"].shape[1] :].tolist()]
                right += sum(verdict.parts[stage.evaluation.accuracy] == 1 for verdict in scored(ids, said))
            self.evaluating += time.time() - began
            return right / len(asked)

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    count = stage.prompts_per_step * stage.completions_per_prompt
    drawn = draw(problems.train, seed, 0, len(problems.train))
    train = Dataset.from_list([{"prompt": texts[one.id], "problem": one.id} for one in drawn])
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, seed=seed, per_device_train_batch_size=options.rows,
            gradient_accumulation_steps=count // options.rows, num_generations=stage.completions_per_prompt,
            max_completion_length=stage.rollout.max_new_tokens, temperature=stage.rollout.temperature,
            top_p=1.0, top_k=0, loss_type=LOSSES[stage.loss.kind],
            epsilon=stage.loss.clip_low, epsilon_high=stage.loss.clip_high,
            scale_rewards="group" if stage.advantage.kind == "grpo" else "none", beta=stage.kl.beta,
            learning_rate=stage.lr, lr_scheduler_type="constant",
            adam_beta1=stage.beta1, adam_beta2=stage.beta2, weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm, max_steps=1_000_000, bf16=stage.precision != "fp32",
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
            mask_truncated_completions=stage.mask_truncated, shuffle_dataset=False, **_settings(options.trl),
        )  # fmt: skip
        GRPOTrainer(
            model=model,
            reward_funcs=total,
            args=config,
            train_dataset=train,
            processing_class=tokenizer,
            callbacks=[Watch()],
        ).train()


def _settings(said: Sequence[str]) -> dict[str, Any]:
    """Values of GRPOConfig by name."""
    return {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in said)}


def _stage(options: argparse.Namespace, seed: int) -> tuple[str, Any, Any]:
    """The key, the recipe and the settings of the first grpo stage, once it is sure that TRL can do the same."""
    from grpo.recipe_file import load_recipe

    recipe = load_recipe(options.recipe, [*options.set, f"seed={seed}"])
    place = next(place for place, stage in enumerate(recipe.stages) if stage.kind == "grpo")
    stage = recipe.stages[place]
    updates = stage.minibatches_per_step * stage.epochs_per_step
    count = stage.prompts_per_step * stage.completions_per_prompt
    wrong = [
        said
        for said, is_so in {
            f"a loss of kind {stage.loss.kind}": stage.loss.kind not in LOSSES,
            f"lr_schedule {stage.lr_schedule}": stage.lr_schedule != "constant",
            "warmup_steps, which TRL begins at 0": stage.warmup_steps > 0,
            f"advantages of kind {stage.advantage.kind}": stage.advantage.kind not in ("grpo", "dr_grpo"),
            "a KL penalty": stage.kl.beta > 0,
            "stop texts": bool(stage.rollout.stop),
            "several updates a step": updates > 1,
            f"{count} completions a step, {options.rows} at a time": count % options.rows > 0,
            "no evaluation": stage.evaluation is None,
            "a curriculum": stage.curriculum is not None or stage.dynamic_sampling is not None,
            "a schedule": bool(stage.temperature_schedule or stage.length_schedule),
            "a mixture of problems": stage.problems.sources is not None,
            "a model made from scratch": recipe.model.path is None,
            "LoRA": recipe.model.lora is not None,
        }.items()
        if is_so
    ]
    if wrong:
        sys.exit(f"{options.recipe}: {', '.join(wrong)}: the two sides would not do the same; change it with --set")
    return f"stages.{place}", recipe, stage


# --- files and figures ------------------------------------------------------------------------------------------------


def _append(file: Path, row: Row) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    print(f"{file.stem}: {row}", flush=True)


def _write(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(file: Path) -> list[Row]:
    """The lines that a side left."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def smoothed(rows: Sequence[Row], window: int) -> list[tuple[float, float]]:
    """Seconds and the mean reward of the last `window` steps, from the first step on that has as many behind it.

    >>> smoothed([{"seconds": 1, "reward": 0.0}, {"seconds": 2, "reward": 1.0}, {"seconds": 3, "reward": 2.0}], 2)
    [(2, 0.5), (3, 1.5)]
    """
    steps = [row for row in rows if "reward" in row]
    return [
        (steps[end - 1]["seconds"], statistics.fmean(row["reward"] for row in steps[end - window : end]))
        for end in range(window, len(steps) + 1)
    ]


def reached(rows: Sequence[Row], reward: float, window: int) -> float | None:
    """The seconds after which the mean reward was first as high, None where it never was."""
    return next((seconds for seconds, mean in smoothed(rows, window) if mean >= reward), None)


def report(options: argparse.Namespace) -> None:
    """Say the time to TRL's last reward of each seed, and the median of the ratios; draw both."""
    ratios = []
    sides = {seed: [read(options.out / f"{who}-{seed}.jsonl") for who in WHO] for seed in options.seeds}
    for seed, (trl, ours) in sides.items():
        ends = smoothed(trl, options.window)
        if not ends:
            print(f"seed {seed}: TRL has not made {options.window} steps")
            continue
        seconds, reward = ends[-1]
        first, hit = reached(trl, reward, options.window) or seconds, reached(ours, reward, options.window)
        found = "not reached" if hit is None else f"after {hit:.0f} s, {first / hit:.2f} times as fast"
        print(f"seed {seed}: TRL ends after {seconds:.0f} s with a reward of {reward:.3f}, ", end="")
        print(f"which it first had after {first:.0f} s")
        print(f"        here {found}; a step takes {_pace(ours):.1f} s, TRL's {_pace(trl):.1f} s")
        ratios.append(0.0 if hit is None else first / hit)
    if ratios:
        print(f"median of {len(ratios)} seeds: {statistics.median(ratios):.2f} times as fast")
    plot(sides, options.window, options.out / "time_to_reward.svg")


def _pace(rows: Sequence[Row]) -> float:
    """Median seconds between steps."""
    ends = [row["seconds"] for row in rows if "reward" in row]
    return statistics.median(after - before for before, after in pairwise(ends)) if len(ends) > 1 else math.nan


def plot(sides: dict[int, list[list[Row]]], window: int, file: Path) -> None:
    """Mean reward and held-out accuracy against minutes, a line a seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for color, (name, side) in zip(("tab:gray", "tab:blue"), (("TRL 1.16.0", 0), ("grpo-train", 1)), strict=True):
        for number, runs in enumerate(sides.values()):
            label = name if number == 0 else None
            points = smoothed(runs[side], window)
            left.plot([s / 60 for s, _ in points], [mean for _, mean in points], ".-", color=color, label=label)
            held_out = [(row["seconds"] / 60, row["accuracy"]) for row in runs[side] if "accuracy" in row]
            right.plot(*zip(*held_out, strict=True), "o-", markersize=3, color=color, label=label) if held_out else None
    left.set(xlabel="minutes", ylabel=f"mean reward of {window} steps")
    right.set(xlabel="minutes", ylabel="held-out accuracy, greedy", ylim=(0, 1))
    left.legend(frameon=False)
    matplotlib.rcParams["svg.hashsalt"] = "time_to_reward"  # the same picture is the same file
    figure.savefig(file, metadata={"Date": None})
    print(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in grpo-train, both sides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="TRL's time on the clock")
    parser.add_argument("--our-minutes", type=float, help="and ours: as long, unless said")
    parser.add_argument("--window", type=int, default=5, help="steps that a mean reward is over")
    parser.add_argument("--every", type=int, default=10, help="steps between held-out evaluations")
    parser.add_argument("--problems", type=int, default=128, help="held-out problems of an evaluation")
    parser.add_argument("--rows", type=int, default=8, help="completions that TRL learns from at a time")
    parser.add_argument("--trl", action="append", default=[], metavar="NAME=VALUE", help="settings of its GRPOConfig")
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_reward"))
    parser.add_argument("--report", action="store_true", help="measure nothing, report what is there")
    parser.add_argument("--one", choices=WHO, help="measure this side alone, of the first seed, and report nothing")
    options = parser.parse_args(arguments)
    options.our_minutes = options.our_minutes or options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        file = options.out / f"{options.one}-{options.seeds[0]}.jsonl"
        file.with_suffix(".part").unlink(missing_ok=True)
        {"trl": run_trl, "ours": run_ours}[options.one](options, options.seeds[0], file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        return None
    for seed in () if options.report else options.seeds:
        _stage(options, seed)
        for who in WHO:
            file = options.out / f"{who}-{seed}.jsonl"
            if file.exists():
                print(f"{file} is there: not measured again")
            else:
                one = ["--one", who, "--seeds", str(seed)]
                subprocess.run([sys.executable, __file__, *(arguments or sys.argv[1:]), *one], check=True)
    return report(options)


if __name__ == "__main__":
    main()
