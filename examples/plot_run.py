"""Draws the learning curves of a run: python examples/plot_run.py runs/quickstart curves.svg

One panel a training stage. Reinforcement learning: the mean of every reward over the step's completions, and the
accuracy on held-out problems with its 95 % interval; rewards of preference have a scale of their own on the right, and
a red line where the run warned that they part from accuracy. Fine-tuning: the loss. Needs matplotlib, the extra `plot`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Row = dict[str, Any]
NOT_A_REWARD = ("mean", "std", "not_applicable", "error", "timeout")


def read(run: Path) -> dict[str, list[Row]]:
    """The lines of every stage's metrics.jsonl, by stage, in the order of the run."""
    files = sorted(run.glob("*/metrics.jsonl"))
    return {f.parent.name: [json.loads(line) for line in f.read_text(encoding="utf-8").splitlines()] for f in files}


def held_out(stages: dict[str, list[Row]], stage: str) -> list[tuple[int, float, float, float]]:
    """(step, accuracy, low, high) of the model a stage began with, of the policy during it, and of its own model."""
    found = {r["step"]: accuracy(r, "evaluation/") for r in stages[stage] if "evaluation/accuracy" in r}
    evaluated = {r["model"]: accuracy(r) for rows in stages.values() for r in rows if "model" in r}
    trained = ["base", *(name for name in stages if not name.endswith(("evaluate", "reward_model")))]
    last_step = max(row["step"] for row in stages[stage])
    for step, model in ((0, trained[trained.index(stage) - 1]), (last_step, stage)):
        found |= {step: evaluated[model]} if model in evaluated else {}
    return [(step, *found[step]) for step in sorted(found)]


def accuracy(row: Row, prefix: str = "") -> tuple[float, float, float]:
    """An accuracy with the ends of its interval."""
    return row[f"{prefix}accuracy"], row[f"{prefix}accuracy_low"], row[f"{prefix}accuracy_high"]


def draw(axes: Axes, stages: dict[str, list[Row]], stage: str) -> None:
    """One stage in one panel."""
    rows = [row for row in stages[stage] if "loss" in row]
    every = dict.fromkeys(name for row in rows for name in row)  # a reward may apply in some steps only
    rewards = [n for n in every if n.startswith("reward/") and n.rpartition("/")[2] not in NOT_A_REWARD]
    liked = [n for n in rewards if n.replace("reward/", "watch/") in every]
    for name in [n for n in rewards if n not in liked] or ["loss"]:
        curve(axes, rows, name)
    if liked:
        preference(axes, rows, liked)
    points = held_out(stages, stage) if rewards else []
    if points:
        steps, middle, low, high = np.array(points).T
        ends = np.abs([middle - low, high - middle])  # of 0 right, the lower one is 0 but for rounding
        axes.errorbar(steps, middle, ends, fmt="ko--", capsize=3, label="held-out accuracy")
    for level in (0, 1) if rewards else (0,):
        axes.axhline(level, color="0.6", linewidth=0.8, zorder=0)
    axes.set(title=stage, xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def curve(axes: Axes, rows: list[Row], name: str, **style: str) -> None:
    """One figure over the steps that have it."""
    measured = [row for row in rows if row.get(name) is not None]
    label = f"{name.removeprefix('reward/')} reward" if name.startswith("reward/") else name
    axes.plot([row["step"] for row in measured], [row[name] for row in measured], label=label, **style)


def preference(axes: Axes, rows: list[Row], names: list[str]) -> None:
    """Rewards of preference against a scale on the right, and the steps at which they parted from accuracy."""
    right = axes.twinx()
    for number, name in enumerate(names):
        curve(right, rows, name, color=f"C{number + 6}", linestyle=":")
        axes.plot([], [], label=f"{name.removeprefix('reward/')} reward (right)", color=f"C{number + 6}", linestyle=":")
    right.set_ylabel("preference")
    for row in rows:
        if row.get("watch/parted"):
            axes.axvline(row["step"], color="red", linewidth=0.8)


def plot(run: Path, picture: Path) -> None:
    """Draw the run in a folder into a picture, SVG or PNG by the name's ending."""
    stages = read(run)
    trained = [name for name, rows in stages.items() if any("loss" in row for row in rows)]
    figure = Figure(figsize=(5 * len(trained), 4), layout="constrained")
    panels = figure.subplots(1, len(trained), squeeze=False)
    for axes, stage in zip(panels[0], trained, strict=True):
        draw(axes, stages, stage)
    with matplotlib.rc_context({"svg.hashsalt": "grpo"}):  # the same run gives the same file
        figure.savefig(picture, dpi=150, metadata={"Date": None} if picture.suffix == ".svg" else None)


if __name__ == "__main__":
    plot(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "curves.svg"))
