"""A run killed at any moment goes on as if it had not been: the same model byte for byte, the same figures."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SUMS = {
    "function": "grpo.tasks.arithmetic:sums",
    "params": {"size": 14, "terms": 2, "max_value": 20},
    "template": {"kind": "plain"},
}

STAGES = [
    {
        "kind": "sft",
        "steps": 3,
        "examples_per_step": 8,
        "lr": 3e-3,
        "checkpoint_every": 2,
        "experts": {"bias_update_rate": 1e-3},
    },
    {
        "kind": "grpo",
        "steps": 8,
        "prompts_per_step": 4,
        "completions_per_prompt": 4,
        "minibatches_per_step": 2,
        "lr": 1e-3,
        "checkpoint_every": 3,
        "rollout": {"max_new_tokens": 32},
        "problems": [
            {**SUMS, "label": "two", "weight": 2.0},
            {**SUMS, "label": "three", "params": {"size": 14, "terms": 3}, "first_step": 3},
        ],
        "curriculum": {"visits": 1, "retest_after": 1},
        "length_schedule": [{"step": 5, "max_new_tokens": 40}],
        "temperature_schedule": [{"step": 4, "temperature": 1.2}],
        "kl": {"refresh_reference_every": 4},
        "evaluation": {"every": 4, "problems": 4},
        "experts": {"bias_update_rate": 1e-3, "routing_replay": "sampler"},
    },
]

CHANGES_EVERY_TIME = ("time", "memory/", "tokens/rollout_per_s", "tokens/learn_per_s")


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "grpo.cli", str(recipe)]


def kill_when(recipe: Path, moment: Callable[[Path], bool]) -> bool:
    """Start the run and kill it with SIGKILL at a moment; False when it ended before."""
    folder = recipe.parent / "runs" / recipe.stem / "02-grpo"
    process = subprocess.Popen(command(recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if moment(folder):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def finish(recipe: Path) -> tuple[bytes, list[dict[str, Any]], list[dict[str, Any]]]:
    """Run to the end; the model's bytes, the figures that may not change, and the samples and the load of experts."""
    done = subprocess.run(command(recipe), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = recipe.parent / "runs" / recipe.stem / "02-grpo"
    figures = [
        {name: value for name, value in row.items() if not name.startswith(CHANGES_EVERY_TIME)}
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    ]
    files = ("samples.jsonl", "experts.jsonl")
    samples = [json.loads(line) for file in files for line in (folder / file).read_text().splitlines()]
    return (folder / "model" / "model.safetensors").read_bytes(), figures, samples


def lines(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


MOMENTS: dict[str, Callable[[Path], bool]] = {
    # The line of step 4 stands below that of the evaluation before step 1: step 5 is being sampled.
    "sampling": lambda folder: lines(folder) == 5,
    "learning": lambda folder: (folder / "rollouts" / "step-000005.jsonl.gz").exists(),
    "saving": lambda folder: (folder / "checkpoints" / ".tmp-step-000006").exists(),
}


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(write_recipe: Callable[..., Path]) -> None:
    expected = finish(write_recipe("uninterrupted", stages=STAGES))
    for name, moment in MOMENTS.items():
        recipe = write_recipe(name, stages=STAGES)
        assert kill_when(recipe, moment), f"the run ended before the moment of {name}"
        model, figures, samples = finish(recipe)
        assert model == expected[0], name
        assert figures == expected[1], name
        assert samples == expected[2], name


@pytest.mark.slow
def test_a_full_disk_loses_nothing(write_recipe: Callable[..., Path]) -> None:
    """A limit on file sizes stands for the disk: the optimizer's file is the largest and does not fit."""
    recipe = write_recipe(stages=STAGES[1:])
    limit = 400_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    full = subprocess.run(command(recipe), capture_output=True, text=True, check=False, preexec_fn=limited)
    assert full.returncode == 2, full.stderr
    assert "step-000003" in full.stderr.splitlines()[-1]
    folder = recipe.parent / "runs" / "tiny" / "01-grpo"
    sampled = folder / "rollouts" / "step-000003.jsonl.gz"
    before = sampled.stat().st_mtime_ns
    assert not list((folder / "checkpoints").glob("*"))

    process = subprocess.Popen(command(recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lines(folder) < 4:  # the evaluation before step 1, then three steps
        assert process.poll() is None
        time.sleep(0.001)
    assert sampled.stat().st_mtime_ns == before  # taken from the journal, not sampled again
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_an_uninterrupted_one(write_recipe: Callable[..., Path]) -> None:
    """The moments are random within steps 2 and 4: they differ from call to call, and are printed when it fails."""
    expected = finish(write_recipe("whole", stages=STAGES))
    recipe = write_recipe("torn", stages=STAGES)
    waits = [random.uniform(0, 0.5) for _ in range(2)]
    for step, wait in zip((2, 4), waits, strict=True):

        def moment(folder: Path, step: int = step, wait: float = wait) -> bool:
            if lines(folder) <= step:
                return False
            time.sleep(wait)
            return True

        assert kill_when(recipe, moment), f"the run ended before step {step}"
    assert finish(recipe) == expected, waits
