"""How long training takes to reach the reward that TRL's GRPOTrainer has at the end of its time.

    python benchmarks/time_to_reward.py benchmarks/time_to_reward.yaml --seeds 0 1 2 --minutes 30 --out runs/trl

Both train the model of the recipe's first grpo stage on its problems in the same order, with its prompts, rewards,
group size, loss, learning rate and seed, one process each, TRL first. TRL samples with transformers' generate, since
its vLLM stops at the first push of weights on a CPU (`--trl use_vllm=true` shows it) and its continuous batching takes
half as long again there; this toolkit samples as the recipe says.
`--trl` changes any other setting of TRL's, and its process keeps freed memory, as this toolkit's does.

The clock is a wall clock from the start of the process, imports and the engine's start included; held-out evaluations,
which neither needs to train, and the check that both read the same tokens stop it. The reward is a mean over the last
`--window` steps, and of both sides the time counts when it first was as high as TRL's is in the end. A line a step is
in `OUT/<who>-<seed>.jsonl`; what is there is not measured again, and `--report` draws what there is.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from time_to_reward_report import WHO, Row, report
from time_to_reward_trl import run_trl, same_work

BEGAN = time.time()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def run_ours(options: argparse.Namespace, seed: int, file: Path) -> None:
    """Start `grpo-train` on the recipe, stop it when its time is over, and keep a line a step."""
    output = options.out / f"run-{seed}"
    stage = same_work(options, seed)[0]
    said = {"seed": seed, "output": output}
    said |= {f"{stage}.evaluation.every": options.every, f"{stage}.evaluation.problems": options.problems}
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
        elif process.returncode or not rows:
            sys.exit(f"grpo-train ended with {process.returncode}: see {log.name}")
        process.wait()
    _write(file, _steps_of(output, began))


def _steps_of(output: Path, began: float) -> list[Row]:
    """The steps of the first stage that has a reward, from its metrics.jsonl, and not from that of an earlier run."""
    files = [file for file in sorted(output.glob("*/*/metrics.jsonl")) if file.stat().st_mtime > began]
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


def _write(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in grpo-train, both sides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30, help="TRL's time on the clock")
    parser.add_argument("--our-minutes", type=float, help="and ours: as long, unless said")
    parser.add_argument("--window", type=int, default=3, help="steps that a mean reward is over")
    parser.add_argument("--every", type=int, default=4, help="steps between held-out evaluations")
    parser.add_argument("--problems", type=int, default=64, help="held-out problems of an evaluation")
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
        run = run_ours if options.one == "ours" else partial(run_trl, began=BEGAN)
        run(options, options.seeds[0], file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        return None
    for seed in () if options.report else options.seeds:
        same_work(options, seed)
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
