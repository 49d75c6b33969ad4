"""The stage that makes a reward model: what it leaves, that a crash costs nothing, and its mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

from grpo.cli import train
from grpo.data import split
from grpo.types import Problem

WriteRecipe = Callable[..., Path]

PAIRS = [
    {
        "prompt": f"ask {i}",
        "chosen": f"<think>{'no' * (i % 4)}</think> yes {i}",
        "rejected": f"<think>{'yes' * (i % 3)}</think> no {i}",
    }
    for i in range(80)
]
LABELS = [
    {"prompt": f"ask {i}", "response": f"<think>{'bad' if i % 3 == 0 else 'fine'}</think> {i}", "label": i % 3 != 0}
    for i in range(80)
]
STAGE: dict[str, Any] = {
    "kind": "reward_model",
    "problems": {"path": "data.jsonl", "held_out": 0.3, "template": {"kind": "plain"}},
    "steps": 6,
    "examples_per_step": 8,
    "lr": 1e-2,
    "checkpoint_every": 2,
    "tokens_per_micro_batch": 200,
    "evaluation": {"every": 3},
}


@pytest.fixture
def recipe(write_recipe: WriteRecipe, tmp_path: Path) -> Callable[..., Path]:
    """`recipe(rows, name="tiny", **keys)`: one reward-model stage with other keys, on these rows."""

    def make(rows: list[dict[str, Any]], name: str = "tiny", **keys: Any) -> Path:
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return write_recipe(name, stages=[STAGE | keys])

    return make


def folder_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / recipe.stem / "01-reward_model"


def rows_of(recipe: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder_of(recipe) / "metrics.jsonl").read_text().splitlines()]


def test_pairs_make_a_model_that_transformers_loads(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe(PAIRS)
    assert train([str(made)]) == 0
    rows = rows_of(made)
    assert [row["step"] for row in rows if "evaluation/accuracy" in row] == [0, 3, 6]
    held_out = len(split([Problem("", row["prompt"], {}) for row in PAIRS], 0.3)[1])
    last = rows[-1]
    assert last["evaluation/examples"] == held_out
    assert last["evaluation/accuracy_low"] <= last["evaluation/accuracy"] == 1.0
    assert last["evaluation/calibration_error"] < rows[0]["evaluation/calibration_error"] < 1
    assert {"loss", "accuracy", "score/margin", "grad_norm", "lr", "time/learn", "tokens/learn_per_s"} <= last.keys()
    assert "held-out examples" in capsys.readouterr().out

    folder = folder_of(made) / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():  # the summary alone is judged, behind the prompt of the template
        good, bad = (model(torch.tensor([tokenizer.encode(f"ask 7{t}<eos>")])).logits.item() for t in ("yes 7", "no 7"))
    assert good > bad
    assert json.loads((folder / "reward_model.json").read_text())["judges"] == "summary"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert train([str(made)]) == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_labels_are_learned_from_the_whole_response(recipe: Callable[..., Path]) -> None:
    made = recipe(LABELS, objective="pointwise", steps=12)
    assert train([str(made)]) == 0
    last = rows_of(made)[-1]
    assert last["evaluation/roc_area"] == 1.0  # what tells them apart stands in the thought
    assert json.loads((folder_of(made) / "model" / "reward_model.json").read_text())["judges"] == "response"


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_run_that_ends_between_checkpoints_ends_as_another(recipe: Callable[..., Path], lora: Any) -> None:
    """What a kill after step 5 leaves: the checkpoint of step 4, and logs that went on."""
    made = recipe(PAIRS)
    arguments = [str(made), *([f"--set=model.lora={json.dumps(lora)}"] if lora else [])]
    assert train(arguments) == 0
    folder = folder_of(made)
    expected = (folder / "model" / "model.safetensors").read_bytes()
    figures = [
        {k: v for k, v in row.items() if not k.startswith(("time", "memory", "tokens/"))} for row in rows_of(made)
    ]
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    (folder / "complete.json").unlink()
    assert train(arguments) == 0
    assert (folder / "model" / "model.safetensors").read_bytes() == expected
    again = [{k: v for k, v in row.items() if not k.startswith(("time", "memory", "tokens/"))} for row in rows_of(made)]
    assert again == figures
    if lora:  # merged: transformers finds no adapter
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
        assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_encoder_is_a_backbone_too(recipe: Callable[..., Path], tmp_path: Path) -> None:
    letters = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "ask",
        "yes",
        "no",
        *map(str, range(10)),
        *["##0", "##1", "##2"],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(letters))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertForMaskedLM(BertConfig(vocab_size=len(letters), **sizes)).save_pretrained(tmp_path / "bert")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    made = recipe(PAIRS, steps=10, lr=3e-3)
    assert train([str(made), "--set=model={path: bert}"]) == 0
    assert rows_of(made)[-1]["evaluation/accuracy"] == 1.0


def test_what_cannot_be_learned_from_is_left_out_and_said(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    long, same = {**PAIRS[0], "chosen": "yes" * 100}, {**PAIRS[1], "rejected": "<think>?</think>" + PAIRS[1]["chosen"]}
    made = recipe([*PAIRS[2:], long, same], steps=1)
    assert train([str(made)]) == 0
    said = capsys.readouterr().out
    assert "1 examples longer than 128 tokens are left out" in said
    assert "1 pairs whose judged texts are the same are left out" in said


def test_responses_may_be_messages(recipe: Callable[..., Path]) -> None:
    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = [row | {"chosen": turn(row["chosen"]), "rejected": turn(row["rejected"])} for row in PAIRS]
    made, plain = recipe(rows, "messages", steps=1), None
    assert train([str(made)]) == 0
    plain = recipe(PAIRS, "plain", steps=1)
    assert train([str(plain)]) == 0
    assert rows_of(made)[-1]["evaluation/loss"] == rows_of(plain)[-1]["evaluation/loss"]


@pytest.mark.parametrize(
    ("rows", "keys", "parts"),
    [
        (LABELS, {}, ("no column 'chosen'", "set chosen_column")),
        (PAIRS, {"objective": "pointwise"}, ("no column 'response'", "set response_column")),
        ([*PAIRS, {**PAIRS[0], "chosen": 3}], {}, ("expected a response in column 'chosen'", "got '3'")),
        ([*LABELS, {**LABELS[0], "label": "good"}], {"objective": "pointwise"}, ("a label from 0 to 1", "'good'")),
        (PAIRS, {"problems": {**STAGE["problems"], "held_out": 0}}, ("held_out 0", "measured on held-out")),
        (PAIRS, {"objective": "pointwise", "center": 0.1}, ("center is for pairs",)),
        (PAIRS, {"experts": {"bias_update_rate": 1e-3}}, ("experts are left as they are",)),
        (PAIRS, {"epochs": 1}, ("exactly one of steps, epochs",)),
        (PAIRS, {"examples_per_step": 79}, ("expected at least 79 to train on",)),
        (PAIRS, {"judges": "thought"}, ("judges must be 'summary' or 'response', got 'thought'",)),
    ],
)
def test_mistakes_are_one_sentence(
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    keys: dict[str, Any],
    parts: tuple[str, ...],
) -> None:
    assert train([str(recipe(rows, **keys))]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    for part in parts:
        assert part in error
