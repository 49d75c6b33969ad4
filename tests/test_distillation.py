"""Learning from a teacher: the loss of a micro-batch by plain means, and a stage in a whole run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from grpo.batch import pack
from grpo.cli import train
from grpo.distillation import Distillation, load_teacher
from grpo.estimate import describe
from grpo.forward import prepare_packing
from grpo.model_settings import InitSettings
from grpo.mtp import add_predictor, predictor_of
from grpo.policy import Policy, save_policy
from grpo.recipe_file import load_recipe
from grpo.scratch import make_policy
from grpo.tasks.text import passages
from grpo.teacher_settings import TeacherSettings
from grpo.types import TokenSequence, UserError

CPU = torch.device("cpu")
SEQUENCES = [TokenSequence((5, 6, 7), (8, 9, 10)), TokenSequence((5, 6, 7), (3, 2)), TokenSequence((12,), (13,))]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_loss_is_that_of_plain_logits(tiny_model: Any, byte_tokenizer: Any, share: float, packs: bool) -> None:
    """Students and teachers of unlike architectures, with shared prompts or padded rows."""
    student, teacher = tiny_model("qwen3"), tiny_model("gemma2", seed=1)
    if packs:
        for model in (student, teacher):
            assert prepare_packing(model, byte_tokenizer) == []
    loss, tally = Distillation(6, teacher, share)(student, pack(SEQUENCES, CPU))
    kl, entropy = [], []
    for sequence in SEQUENCES:
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.target_ids]])
        rows = slice(len(sequence.prompt_ids) - 1, -1)
        own, taught = (model(ids).logits[0, rows].log_softmax(-1) for model in (student, teacher))
        kl.append((taught.exp() * (taught - own)).sum(-1))
        entropy.append(-own.gather(1, torch.tensor(sequence.target_ids)[:, None]).squeeze(1))
    expected = (share * torch.cat(kl) + (1 - share) * torch.cat(entropy)).sum() / 6
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert tally.figures()["distill/kl"] == pytest.approx(torch.cat(kl).mean().item(), rel=1e-3)
    assert tally.figures()["distill/cross_entropy"] == pytest.approx(torch.cat(entropy).mean().item(), rel=1e-3)


def test_only_the_student_learns(tiny_model: Callable[..., PreTrainedModel]) -> None:
    student, teacher = tiny_model("llama"), tiny_model("llama", seed=1)
    Distillation(6, teacher, 1.0)(student, pack(SEQUENCES, CPU))[0].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_student_of_itself_has_nothing_to_learn(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama")
    loss, _ = Distillation(6, tiny_model("llama"), 1.0)(model, pack(SEQUENCES, CPU))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert max(parameter.grad.abs().max().item() for parameter in model.parameters()) < 1e-6  # type: ignore[union-attr]


# --- a whole run ------------------------------------------------------------------------------------------------------

LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENIZER = {"kind": "bytes", "special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]}
STAGE = {"kind": "sft", "steps": 6, "examples_per_step": 8, "lr": 1e-2, "checkpoint_every": 2}


def teacher(folder: Path, **tokenizer: Any) -> Path:
    init = InitSettings(architecture="llama", config=LLAMA, tokenizer=TOKENIZER | tokenizer)
    save_policy(make_policy(init, seed=1), folder)
    return folder


def figures(recipe: Path) -> list[dict[str, Any]]:
    file = recipe.parent / "runs" / recipe.stem / "01-sft" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_stage_draws_nearer_to_its_teacher(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The path is looked for beside the recipe."""
    teacher(tmp_path / "teacher")
    recipe = write_recipe(stages=[STAGE | {"teacher": {"path": "teacher", "share": 1.0}}])
    assert train([str(recipe)]) == 0
    rows = figures(recipe)
    assert rows[-1]["distill/kl"] < 0.8 * rows[0]["distill/kl"]
    assert [row["loss"] for row in rows] == pytest.approx([row["distill/kl"] for row in rows], rel=1e-5)


def test_rows_that_pad_a_teachers_vocabulary_are_left_out(tiny_model: Callable[..., PreTrainedModel]) -> None:
    """Qwen2.5's larger models have 128 rows more than its small ones, and the same tokenizer."""
    model, padded = tiny_model("llama"), tiny_model("llama")
    padded.load_state_dict(model.state_dict())
    padded.resize_token_embeddings(model.config.vocab_size + 128)
    padded.get_output_embeddings().weight.data[model.config.vocab_size :] = 5.0
    loss, _ = Distillation(6, padded, 1.0)(model, pack(SEQUENCES, CPU))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    same, _ = Distillation(6, model, 0.0)(model, pack(SEQUENCES, CPU))
    assert Distillation(6, padded, 0.0)(model, pack(SEQUENCES, CPU))[0].item() == pytest.approx(same.item(), rel=1e-6)


def test_a_teacher_is_the_trunk_alone_and_may_bring_code_where_that_is_allowed(
    tmp_path: Path, byte_tokenizer: Any, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    """Its folder says that its config is in a file of its own, which nothing runs until the recipe lets it."""
    model = tiny_model("llama")
    add_predictor(model, seed=0)
    policy = Policy(model, byte_tokenizer, "")
    save_policy(policy, tmp_path / "teacher")
    assert predictor_of(load_teacher(settings(tmp_path), policy, CPU)[0]) is None

    config = tmp_path / "teacher" / "config.json"
    own = {"model_type": "own_llama", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    (tmp_path / "teacher" / "own.py").write_text(OWN_CODE)
    with pytest.raises(UserError, match="teacher"):
        load_teacher(settings(tmp_path), policy, CPU)
    assert type(load_teacher(settings(tmp_path, trust_remote_code=True), policy, CPU)[0]).__name__ == "Own"


def settings(folder: Path, **given: Any) -> TeacherSettings:
    return TeacherSettings(path=str(folder / "teacher"), **given)


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_the_dry_run_counts_the_teacher(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    teacher(tmp_path / "teacher")
    words = describe(load_recipe(write_recipe(stages=[STAGE | {"teacher": {"path": "teacher"}}])))
    assert "+ teacher 0.00 +" in words
    assert "teacher" not in describe(load_recipe(write_recipe(stages=[STAGE])))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("none/at/all", "none/at/all: no such model folder"), ("other", "expected a model with the policy's 262 tokens")],
)
def test_teachers_that_can_not_teach(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, sentence: str
) -> None:
    teacher(tmp_path / "other", special_tokens=["<think>"])
    assert train([str(write_recipe(stages=[STAGE | {"teacher": {"path": path}}]))]) == 2
    assert sentence in capsys.readouterr().err


# --- texts ------------------------------------------------------------------------------------------------------------


def test_passages_are_the_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("One two  three\nfour five six seven", encoding="utf-8")
    assert list(passages(str(tmp_path / "text"), words=3, opening=1)) == [
        {"prompt": "One", "completion": " two  three"},
        {"prompt": "four", "completion": " five six"},
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"words": 9}, "expected at least 9 words, got 7"),
        ({"words": 3, "opening": 3}, "opening must be from 1 to below words, got 3 of 3"),
        ({"file": "none"}, "expected a UTF-8 text file, got none"),
    ],
)
def test_texts_that_do_not_do(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    (tmp_path / "text").write_text("One two  three\nfour five six seven", encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        list(passages(**{"file": str(tmp_path / "text"), **options}))
