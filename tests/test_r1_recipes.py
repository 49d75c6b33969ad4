"""R1's pipeline and its distillation: the recipes load, and in miniature they run from end to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from grpo.chain import chain
from grpo.cli import train
from grpo.doctor import examine
from grpo.evaluation_table import tables
from grpo.plugins import load_object
from grpo.recipe_file import load_recipe
from grpo.rejection_stage import RejectionStage
from grpo.reward_reading import CARD
from grpo.sft_stage import SftStage

RECIPES = Path(__file__).parents[1] / "recipes"

MINIATURE = load_object(f"{RECIPES.parent / 'benchmarks' / 'kills.py'}:MINIATURE")
"""Settings that make the whole chain small."""

SMALL = {name: MINIATURE[name] for name in MINIATURE if not name.startswith("stages.")}
SMALL_DISTILLATION = {
    "stages.0.max_new_tokens": 40,
    **{f"stages.1.{key}": value for key, value in {"steps": 4, "examples_per_step": 2}.items()},
    "stages.2.max_new_tokens": 40,
}


def run(recipe: str, output: Path, overrides: dict[str, Any]) -> None:
    said = {"output": output, **SMALL, **overrides}
    assert train([str(RECIPES / recipe), *(f"--set={key}={value}" for key, value in said.items())]) == 0


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def r1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    run("r1_tiny.yaml", output, MINIATURE)
    return output / "r1_tiny"


def test_the_chain_of_r1_runs_from_one_recipe(r1: Path) -> None:
    starts = {
        "01-cold_start": "base",
        "02-reasoning": "01-cold_start",
        "03-rejection": "02-reasoning",
        "04-second_sft": "base",
        "05-helpfulness": "04-second_sft",
        "06-harmlessness": "04-second_sft",
        "07-alignment": "04-second_sft",
    }
    assert [folder.name for folder in sorted(r1.iterdir()) if folder.is_dir()] == ["00-base", *starts, "08-evaluate"]
    for name, start in starts.items():
        inputs = json.loads((r1 / name / "inputs.json").read_text())
        assert f"the model that it starts from ({start})" in inputs
    evaluated = [row["model"] for row in lines(r1 / "08-evaluate" / "metrics.jsonl")]
    assert evaluated == ["01-cold_start", "02-reasoning", "04-second_sft", "07-alignment"]


def test_the_second_fine_tuning_learns_from_what_is_right_and_from_what_is_no_reasoning(r1: Path) -> None:
    candidates, data = lines(r1 / "03-rejection" / "candidates.jsonl"), lines(r1 / "03-rejection" / "data.jsonl")
    assert len(candidates) == 6 * 8  # 6 of 9 sums are not held out
    kept = [row for row in data if "answer" in row]
    assert [c["completion"] for c in candidates if c["reason"] == "kept"] == [row["completion"] for row in kept]
    assert all(row["completion"].endswith(f"{row['answer']}</answer>") for row in kept)
    half = round(len(kept) / 2)
    assert [row["set"] for row in data[len(kept) :]] == ["helpful"] * half + ["safety"] * half


def test_what_is_asked_when_in_the_alignment_and_what_judges_it(r1: Path) -> None:
    """General problems begin later; each is judged by its own reward model, and none by accuracy."""
    samples = lines(r1 / "07-alignment" / "samples.jsonl")
    assert {row["source"] for row in samples if row["step"] == 1} == {"sums"}
    assert {row["source"] for row in samples if row["step"] > 1} == {"sums", "helpful", "safety"}
    own = {"sums": "accuracy", "helpful": "helpful", "safety": "safe"}
    for row in samples:
        given = {name for name, value in row["rewards"].items() if value is not None}
        assert given - {"language"} == {own[row["source"]], "format"}  # a thought without words has no language
    cards = [json.loads((r1 / name / "model" / CARD).read_text()) for name in ("05-helpfulness", "06-harmlessness")]
    assert [card["judges"] for card in cards] == ["summary", "response"]


def test_the_last_table_has_a_line_for_every_model(r1: Path) -> None:
    results = json.loads((r1 / "08-evaluate" / "results.json").read_text())["results"]
    measured = [(one["model"], one["template"], one["figures"]) for one in results]
    by_source, overall = tables(measured, "accuracy", ["helpful", "safe"]).values()
    names = ["01-cold_start", "02-reasoning", "04-second_sft", "07-alignment"]
    assert [line["model"] for line in overall] == names
    assert {"pass@1", "format", "language", "helpful", "helpful sd", "safe", "safe sd", "tokens"} <= overall[0].keys()
    assert [line["problems of"] for line in by_source] == ["helpful", "safety", "sums"] * 4


def test_the_doctor_has_nothing_to_say_of_it(r1: Path) -> None:
    assert examine(r1) == []


def test_a_model_of_another_kind_learns_from_what_is_kept_of_a_teacher(r1: Path, tmp_path: Path) -> None:
    teacher = r1 / "02-reasoning" / "model"
    models = {"stages.0.start": teacher, "stages.2.models": f"[{teacher}, student]"}
    run("distill_tiny.yaml", tmp_path, SMALL_DISTILLATION | models)
    folder = tmp_path / "distill_tiny"
    assert AutoConfig.from_pretrained(folder / "02-student" / "model").model_type == "llama"
    assert {row["source"] for row in lines(folder / "01-teacher" / "data.jsonl")} == {"01-teacher"}
    assert [row["model"] for row in lines(folder / "03-evaluate" / "metrics.jsonl")] == [str(teacher), "02-student"]


def test_the_recipe_for_a_gpu_holds_together() -> None:
    recipe = load_recipe(RECIPES / "distill_qwen2.5-1.5b.yaml")
    teacher, student, _ = chain(recipe)
    assert (teacher.start, student.start, student.reads) == (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "base", ("01-teacher",)
    )  # fmt: skip


def test_the_cold_start_shows_examples_where_it_samples_and_nowhere_else() -> None:
    sampled, learned, evaluated = load_recipe(RECIPES / "cold_start_smollm2.yaml").stages
    assert sampled.problems.template.examples == str(RECIPES.parent / "examples" / "worked_sums.jsonl")
    assert learned.problems.template.file == sampled.problems.template.file
    assert (learned.problems.template.examples, evaluated.problems.template.examples) == (None, None)


def test_data_of_a_stage_has_that_ones_template_and_split_without_its_examples(tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text('{"prompt": "1+1=", "completion": "2"}\n')
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: {path: a/b}\nrewards: [{name: accuracy}]\nstages:\n"
        "- {kind: rejection, name: cold, problems: {path: p.jsonl, held_out: 0.3, template: {kind: r1_zero, "
        "examples: shots.jsonl}}}\n"
        "- {kind: sft, steps: 1, lr: 1e-3, problems: {stage: cold}}\n"
        "- {kind: sft, steps: 1, lr: 1e-3, problems: {stage: 01-cold, held_out: 0, template: {kind: plain}}}\n"
    )
    cold, taken, own = load_recipe(tmp_path / "r.yaml").stages
    assert isinstance(cold, RejectionStage)
    assert isinstance(taken, SftStage)
    assert isinstance(own, SftStage)
    assert cold.problems.template.examples == str(tmp_path / "shots.jsonl")
    assert (taken.problems.held_out, taken.problems.template.kind) == (0.3, "r1_zero")
    assert taken.problems.template.examples is None
    assert (own.problems.held_out, own.problems.template.kind) == (0.0, "plain")


def test_a_file_of_chains_of_thought_is_checked_before_anything_runs(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"<think>{i} and 1</think>{i + 1}" for i in range(7)] + ["<think>never closed"]
    data = [json.dumps({"prompt": f"{i}+1=", "completion": text}) for i, text in enumerate(rows)]
    (tmp_path / "cold.jsonl").write_text("\n".join(data))
    problems = {"path": "cold.jsonl", "template": {"kind": "plain"}}
    sft = {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3, "layout": {}, "problems": problems}
    assert train([str(write_recipe(stages=[sft]))]) == 2
    assert "the completion of '7+1=' is not reasoning up to one </think> and a summary" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "cold.jsonl").write_text("\n".join(data[:7]))
    assert train([str(write_recipe(stages=[sft]))]) == 0
