"""Every mistake of a user ends with one sentence that says where and what to do, status 2, and nothing lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import main, train


def says(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """The error is one line that holds every part."""
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("stages.1.promts_per_step=4", ("stages[1].promts_per_step", "did you mean prompts_per_step")),
        ("stages.1.lr=fast", ("stages[1].lr", "fast")),
        ("stages.1.completions_per_prompt=1", ("at least 2, got 1", "compare completions of one prompt")),
        ("problems={path: nowhere.jsonl}", ("nowhere.jsonl",)),
        ("rewards=[{name: accuracy}, {name: nowhere.py:fn}]", ("nowhere.py",)),
        ("rewards=[{name: accuracy}, {name: acuracy}]", ("acuracy", "did you mean accuracy")),
        ("rewards=[{name: accuracy}, {name: math:sqrt}]", ("math:sqrt",)),
        ("model={path: /nowhere/model}", ("/nowhere/model",)),
        ("stages.1.prompts_per_step=5000", ("5000",)),
        ("trackers=[wandb]", ("wandb", "pip install")),
        ("stages.1.rollout.max_new_tokens=4000", ("4000",)),
        ("stages.1.rollout.top_p=0.9", ("top_p", "not for training")),
        ("stages.1.rollout.engine=vllm-server", ("needs servers for engine vllm-server",)),
        ("stages.1.rollout={engine: vllm-server, servers: {count: 1, urls: [a]}}", ("exactly one of count, urls",)),
        ("stages.1.rollout={engine: vllm-server, servers: {urls: [a], key_env: NO_KEY}}", ("NO_KEY", "grpo serve")),
        ("stages.1.rollout.vllm.dtype=bfloat16", ("vllm and check belong to engines of vLLM",)),
        ("stages.1.correction={kind: token_trunkate}", ("token_trunkate", "token_truncate")),
        ("stages.1.experts.routing_replay=policy", ("needs several updates a step",)),
        (
            "stages.1={kind: grpo, steps: 1, lr: 1, experts: {routing_replay: sampler}, rollout: {engine: vllm-server, "
            "servers: {count: 1}}}",
            (
                "routing_replay: sampler: vllm-server does not tell which experts it chose",
                "rollout.engine: transformers",
            ),
        ),
        (
            "model.init={architecture: llama, config: {hidden_size: 32, num_attention_heads: 2}}",
            ("stages[0].experts: expected a mixture of experts, got llama: leave experts out",),
        ),
        (
            "model.init={architecture: qwen3_moe, config: {hidden_size: 32, num_attention_heads: 2}}",
            ("stages[0].experts.bias_update_rate: expected a router with a bias", "qwen3_moe", "auxiliary_loss"),
        ),
        ("stages.2.models=[07-grpo]", ("07-grpo", "01-sft")),
        ("stages.1.keep_best=reward/acuracy", ("reward/acuracy", "reward/accuracy")),
        ("stages.1.keep_best=source//mean", ("got 'source//mean'", "use one of")),
    ],
)
def test_a_wrong_recipe(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], override: str, parts: tuple[str, ...]
) -> None:
    recipe = write_recipe()
    small = [
        "--set=stages.0.steps=1",
        "--set=stages.0.experts.bias_update_rate=0.001",
        "--set=stages.1.steps=1",
        "--set=stages.1.evaluation.problems=1",
    ]
    assert train([str(recipe), *small, "--set", override]) == 2
    says(capsys, *parts)


def test_wrong_data(write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    recipe = write_recipe(problems={"path": "data.jsonl", "template": {"kind": "plain"}})
    file.write_text("")
    assert train([str(recipe)]) == 2
    says(capsys, "data.jsonl")
    file.write_text('{"question": "1+1=", "answer": "2"}\n')
    assert train([str(recipe)]) == 2
    says(capsys, "data.jsonl", "prompt", "question")
    file.write_text('{"prompt": "1+1=", "answer": \n')
    assert train([str(recipe)]) == 2
    says(capsys, "data.jsonl", "line 1")


def test_a_template_that_is_not_there(write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    problems = {"function": "grpo.tasks.arithmetic:sums", "params": {"size": 200, "terms": 2, "max_value": 20}}
    recipe = write_recipe(problems=problems | {"template": {"kind": "jinja", "file": "nothing.jinja"}})
    assert train([str(recipe)]) == 2
    says(capsys, "nothing.jinja: cannot be read")


def test_a_reward_with_a_wrong_signature(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    functions = "def shorter(text):\n    return 1.0\n\ndef needs(completion, solution):\n    return 1.0\n"
    (tmp_path / "mine.py").write_text(functions)
    for name, part in {"shorter": "completion", "needs": "solution"}.items():
        assert train([str(write_recipe(rewards=[{"name": f"mine.py:{name}"}, {"name": "accuracy"}]))]) == 2
        says(capsys, name, part)


def test_a_reward_that_fails_stops_the_run_and_names_its_line(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def broken(completion):\n    return 1 / 0\n")
    recipe = write_recipe(rewards=[{"name": "mine.py:broken"}, {"name": "accuracy"}])
    assert train([str(recipe), "--set=stages.0.steps=1"]) == 2
    says(capsys, "broken", "ZeroDivisionError", "mine.py:2", "max_reward_errors")


def test_a_model_without_tokenizer(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Any
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "bare")
    assert train([str(write_recipe(model={"path": str(tmp_path / "bare")}))]) == 2
    says(capsys, "bare", "tokenizer")


def test_a_quantised_model_is_not_trained(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Any,
    byte_tokenizer: Any,
) -> None:  # fmt: skip
    tiny_model("llama").save_pretrained(tmp_path / "small")
    byte_tokenizer.save_pretrained(tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    assert train([str(write_recipe(model={"path": str(tmp_path / "small")}))]) == 2
    says(capsys, "small: expected weights to train, got quantised ones")


def test_gspo_wants_a_ratio_that_rounding_does_not_clip(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("0.steps=1", "1.loss={kind: gspo}", "1.precision=bf16", "1.rollout.engine=vllm")
    assert train([str(write_recipe()), *(f"--set=stages.{one}" for one in small)]) == 2
    says(capsys, "02-grpo: loss gspo clips", "bfloat16", "correction: {kind: token_truncate}")


def test_a_checkpoint_cut_short_is_passed_over(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [{"kind": "sft", "steps": 6, "examples_per_step": 4, "lr": 1e-3, "checkpoint_every": 2, "keep_last": 3}]
    recipe = write_recipe(stages=stages)
    assert train([str(recipe)]) == 0
    folder = recipe.parent / "runs" / "tiny" / "01-sft"
    expected = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "complete.json").unlink()
    newest = folder / "checkpoints" / "step-000006" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])

    assert train([str(recipe)]) == 0
    out = capsys.readouterr().out
    assert "step-000006 is not whole" in out
    assert "goes on after step 4" in out
    assert (folder / "model" / "model.safetensors").read_bytes() == expected
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_is_no_run_is_left_alone(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe()
    thesis = recipe.parent / "runs" / "tiny" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    assert train([str(recipe)]) == 2
    says(capsys, "thesis.tex")
    assert thesis.read_text() == "years of work"


def test_a_file_that_is_no_gguf(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("not a model")
    assert main(["import-gguf", str(tmp_path / "model.gguf"), str(tmp_path / "out")]) == 2
    says(capsys, "model.gguf")
