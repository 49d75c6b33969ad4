"""A whole run of every kind of stage: what it leaves behind, and that a second call finds it done."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.cli import train

GRPO_FIGURES = {
    *("reward/mean", "reward/std", "reward/accuracy", "reward/format", "reward/language", "groups/zero_std"),
    *("completion/length_mean", "completion/truncated", "loss", "kl", "entropy", "ratio/clipped", "grad_norm", "lr"),
    *("sampler/mismatch_mean", "sampler/mismatch_max", "time/rollout", "time/reward", "time/learn", "time/sync"),
    *("tokens/rollout_per_s", "tokens/learn_per_s", "memory/peak_mb"),
}
"""The names that architecture promises to other tools."""


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_what_it_promises(write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe()
    assert train([str(recipe)]) == 0
    folder = recipe.parent / "runs" / "tiny"

    files = {"recipe.yaml", "environment.json", "01-sft", "02-grpo", "03-evaluate", "report.html"}
    assert files <= {p.name for p in folder.iterdir()}
    assert [row["step"] for row in rows(folder / "01-sft" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    steps = [row for row in rows(folder / "02-grpo" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5]
    for row in steps:
        assert row.keys() >= GRPO_FIGURES
    evaluated = [row["step"] for row in rows(folder / "02-grpo" / "metrics.jsonl") if "evaluation/accuracy" in row]
    assert evaluated == [0, 2, 4, 5]  # before the first step, every second one, after the last
    assert [row["model"] for row in rows(folder / "03-evaluate" / "metrics.jsonl")] == ["base", "01-sft", "02-grpo"]

    samples = rows(folder / "02-grpo" / "samples.jsonl")
    assert len(samples) == 5 * 4 * 4
    assert [s["weight_version"] for s in samples[::16]] == [0, 1, 2, 3, 4]
    group = samples[:4]
    assert abs(sum(s["advantage"] for s in group)) < 1e-5
    for place, sample in enumerate(samples[:16]):  # of every step, the first group tells the probability of its tokens
        assert ("token_logprobs" in sample) == (place < 4)
    assert all(len(s["token_logprobs"]) == len(s["token_lengths"]) == s["tokens"] for s in group)
    # Up to three bytes at the end may wait for a character.
    assert all(0 <= len(s["completion"]) - sum(s["token_lengths"]) <= 3 for s in group)
    assert "pass@2" in capsys.readouterr().out

    model = AutoModelForCausalLM.from_pretrained(folder / "02-grpo" / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "02-grpo" / "model")
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([tokenizer.encode("1+2=")])).logits).all()

    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert train([str(recipe)]) == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == before


def test_keep_best_may_name_a_figure_that_is_measured_later_again(write_recipe: Callable[..., Path]) -> None:
    """Step 2 has no accuracy of its own, whatever was measured before it. All are 0: of equal ones the first stays."""
    recipe = write_recipe()
    said = ("0.steps=1", "1.steps=5", "1.checkpoint_every=2", "1.evaluation.every=3", "1.keep_best=evaluation/accuracy")
    assert train([str(recipe), *(f"--set=stages.{override}" for override in said)]) == 0
    kept = (recipe.parent / "runs" / "tiny" / "02-grpo" / "checkpoints").iterdir()
    assert sorted(path.name for path in kept) == ["step-000003", "step-000004", "step-000005"]


def test_ctrl_c_while_the_report_is_written_still_gives_the_terminal_and_the_trackers_back(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The panel hides the cursor until it is closed, and TensorBoard's thread writes until it is."""

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("grpo.report.command.read_run", interrupted)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    sft = {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3}
    before = set(threading.enumerate())
    assert train([str(write_recipe(trackers=["tensorboard"], stages=[sft]))]) == 1
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert -1 < (said := capsys.readouterr().out).rfind(hidden) < said.rfind(shown)
    assert [thread for thread in set(threading.enumerate()) - before if "tensorboard" in type(thread).__module__] == []


def test_a_changed_recipe_is_refused_with_the_difference(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe()
    stop_early = ["--set", "stages=[{kind: sft, steps: 1, examples_per_step: 2, lr: 1e-3}]"]
    assert train([str(recipe), *stop_early]) == 0
    assert train([str(recipe), *stop_early, "--set", "stages.0.lr=2e-3"]) == 2
    assert "stages.0.lr: 0.001 -> 0.002" in capsys.readouterr().err
    assert train([str(recipe), *stop_early, "--set", "stages.0.lr=2e-3", "--fresh"]) == 0
    assert len([p for p in (recipe.parent / "runs").iterdir() if p.is_dir()]) == 2  # the old run is kept


@pytest.mark.parametrize(
    "changes",
    [
        {"model.lora": "{rank: 4}", "stages.1.kl": "{refresh_reference_every: 2}"},
        {"stages.1.kl": "{beta: 0.05, place: reward, estimator: k1}", "stages.1.advantage": "{kind: rloo}"},
        {"stages.1.loss": "{kind: dapo}", "stages.1.dynamic_sampling": "{max_rounds: 3}", "stages.1.kl": "{beta: 0}"},
        {
            "stages.0.experts": "{sequence_balance_loss: 0.01, bias_update_rate: 0.001}",
            "stages.1.loss": "{kind: gspo}",
            "stages.1.minibatches_per_step": "2",
            "stages.1.epochs_per_step": "2",
            "stages.1.experts": "{bias_update_rate: 0.001, auxiliary_loss: 0.01, routing_replay: policy}",
        },
        {"stages.1.loss": "{kind: cispo}", "stages.1.entropy": "{bonus: 0.01, target: 2.0, delta: 0.005}"},
        {
            "stages.1.mask_truncated": "true",
            "stages.1.precision": "bf16",
            "stages.1.advantage": "{kind: batch_std}",
            "stages.1.experts": "{routing_replay: sampler}",
        },
    ],
    ids=["lora", "kl-in-reward", "dapo", "gspo-minibatches", "cispo-entropy", "bf16-masked"],
)
def test_options_run_and_leave_finite_figures(write_recipe: Callable[..., Path], changes: dict[str, str]) -> None:
    recipe = write_recipe()
    overrides = {"stages.0.steps": "2", "stages.1.steps": "3", "stages.2.samples": "0"} | changes
    assert train([str(recipe), *(f"--set={key}={value}" for key, value in overrides.items())]) == 0
    for row in rows(recipe.parent / "runs" / "tiny" / "02-grpo" / "metrics.jsonl"):
        assert None not in row.values()
    for stage in ("01-sft", "02-grpo"):
        loads = [row["load"] for row in rows(recipe.parent / "runs" / "tiny" / stage / "experts.jsonl")]
        assert {(len(load), len(load[0])) for load in loads} == {(1, 4)}
        assert all(sum(layer) > 0 for load in loads for layer in load)


@pytest.mark.slow
def test_two_processes_train_as_one(write_recipe: Callable[..., Path]) -> None:
    """Samples, rewards and losses agree; only the rounding of sums differs."""
    figures = {}
    for processes in (1, 2):
        recipe = write_recipe(f"by-{processes}")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run([*launch, "-m", "grpo.cli", str(recipe)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        states = (recipe.parent / "runs" / f"by-{processes}" / "02-grpo" / "checkpoints").glob("*/rng.json")
        assert len(json.loads(max(states).read_text())) == processes  # each has one of its own
        figures[processes] = rows(recipe.parent / "runs" / f"by-{processes}" / "02-grpo" / "metrics.jsonl")
    for alone, together in zip(figures[1][1:], figures[2][1:], strict=True):  # the first row is an evaluation
        for name in ("reward/mean", "completion/length_mean", "loss", "kl", "entropy", "grad_norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name
