"""Whole runs whose rollouts are vLLM's: its probabilities stay the learner's, and a killed run ends as a whole one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("vllm")

TOKENIZER = {"kind": "bytes", "special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]}
DEEPSEEK = {
    "architecture": "deepseek_v3",
    "config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "max_position_embeddings": 128,
    },
    "tokenizer": TOKENIZER,
}
LLAMA = {
    "architecture": "llama",
    "config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 128,
    },
    "tokenizer": TOKENIZER,
}


def grpo(steps: int, rollout: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "kind": "grpo",
        "steps": steps,
        "prompts_per_step": 4,
        "completions_per_prompt": 4,
        "lr": 1e-2,
        "checkpoint_every": 3,
        "rollout": {"engine": "vllm", "max_new_tokens": 24, **rollout},
        "rewards": [{"name": "marks.py:mark"}],
        **changes,
    }


@pytest.fixture(autouse=True)
def marks(tmp_path: Path) -> None:
    """A reward that differs from completion to completion, so that every step has a signal."""
    (tmp_path / "marks.py").write_text("def mark(completion):\n    return sum(map(ord, completion)) % 97 / 97\n")


def run(recipe: Path) -> tuple[list[dict[str, Any]], Path]:
    done = subprocess.run(
        [sys.executable, "-m", "grpo.cli", str(recipe)], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = recipe.parent / "runs" / recipe.stem / "01-grpo"
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()], folder


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["whole model", "lora"])
def test_probabilities_stay_the_learners_over_20_updates(
    write_recipe: Callable[..., Path], lora: dict[str, Any] | None
) -> None:
    """Experts and their routers' biases move too."""
    stage = grpo(20, {"temperature": 0.8}, experts={"bias_update_rate": 0.01})
    rows, folder = run(write_recipe(model={"init": DEEPSEEK, "lora": lora}, stages=[stage]))
    assert len(rows) == 20
    assert max(row["sampler/mismatch_max"] for row in rows) <= 1e-4
    assert max(row["check/gap_max"] for row in rows) <= 1e-4
    assert min(row["grad_norm"] for row in rows) > 0
    assert rows[0]["router/bias_range"] > 0
    assert rows[-1]["router/bias_range"] > rows[0]["router/bias_range"]
    versions = [json.loads(line)["weight_version"] for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert versions[::16] == list(range(20))


@pytest.mark.slow
def test_bfloat16_rollouts_train_with_a_correction(write_recipe: Callable[..., Path]) -> None:
    correction = {"kind": "token_truncate", "high": 2.0}
    stage = grpo(4, {"vllm": {"dtype": "bfloat16"}}, correction=correction, minibatches_per_step=2)
    rows, _ = run(write_recipe(model={"init": LLAMA}, stages=[stage]))
    for row in rows:
        assert 1e-5 < row["sampler/mismatch_mean"] < 0.1
        assert 0.9 < row["correction/weight_mean"] < 1.1
        assert row["grad_norm"] > 0


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def result(recipe: Path) -> tuple[bytes, list[str]]:
        _, folder = run(recipe)
        return (folder / "model" / "model.safetensors").read_bytes(), (
            folder / "samples.jsonl"
        ).read_text().splitlines()

    # Evaluations leave keys and values of the prompt's beginning behind, and are not made again by a run that goes on.
    (tmp_path / "prompt.jinja").write_text("Add up what stands behind the colon, step by step: {{ prompt }}")
    problems = {
        "function": "grpo.tasks.arithmetic:sums",
        "params": {"size": 200, "terms": 2, "max_value": 20},
        "held_out": 0.1,
        "template": {"kind": "jinja", "file": "prompt.jinja"},
    }
    stages = [grpo(7, {}, evaluation={"every": 1, "problems": 4, "accuracy": "mark"})]
    settings = {"model": {"init": LLAMA}, "problems": problems, "stages": stages}
    whole = result(write_recipe("whole", **settings))
    recipe = write_recipe("torn", **settings)
    metrics = recipe.parent / "runs" / "torn" / "01-grpo" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "grpo.cli", str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert result(recipe) == whole
