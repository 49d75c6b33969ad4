"""The figures of `time_to_reward.py`: what its two sides left, the ratios of their times, and their curves."""

import json
import math
import statistics
from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""`seconds` on the clock after a `step`, its mean `reward`, and held-out `accuracy` where it was measured."""

WHO = ("trl", "ours")


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


def report(options: Namespace) -> None:
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
