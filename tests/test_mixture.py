"""Problems from several sources: how they are told apart, held out, judged and reported."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from grpo.cli import train
from grpo.data import ProblemSet, mixed
from grpo.display import SilentDisplay
from grpo.grpo_stage import GrpoStage
from grpo.held_out import accuracy_of_sources, greedy_figures
from grpo.model_settings import ModelSettings
from grpo.problem_settings import ProblemSettings
from grpo.recipe_file import dump_recipe, load_recipe
from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import load_rewards
from grpo.rollouts import source_figures
from grpo.run import StageRun
from grpo.task import check_rewards, judge, load_judges, load_task
from grpo.types import Completion, Group, Problem, UserError

REWARDS = [
    {"name": "accuracy"},
    {"name": "length", "options": {"target": 10, "buffer": 5}, "weight": 0.5, "only_if": "accuracy"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def stage(problems: Any) -> GrpoStage:
    return GrpoStage.model_validate({"kind": "grpo", "steps": 1, "lr": 1e-3, "rewards": REWARDS, "problems": problems})


def test_a_list_is_short_for_sources_which_take_over_what_is_said_once() -> None:
    listed = ProblemSettings.model_validate([{"path": "a.jsonl"}, {"task": "chain_sum", "size": 2, "weight": 2}])
    assert listed.names == ["a", "chain_sum"]
    assert [source.weight for source in listed.sources or ()] == [1.0, 2.0]
    shared = {"held_out": 0.5, "template": {"kind": "plain"}}
    said = ProblemSettings.model_validate({**shared, "sources": [{"path": "a"}, {"path": "b", "held_out": 0.0}]})
    assert [source.held_out for source in said.each] == [0.5, 0.0]
    assert {source.template.kind for source in said.each} == {"plain"}


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        ([], "sources"),
        ([{"path": "x/a.jsonl"}, {"path": "y/a.jsonl"}], "two of the sources are called 'a' in figures"),
        ([{"path": "a", "first_step": 2}], "one of the sources needs first_step 1, got 2"),
        ({"path": "a", "sources": [{"path": "b"}]}, "exactly one of path, dataset, task, function, stage, sources"),
        ({"size": 3, "sources": [{"path": "b"}]}, "size belongs to each of the sources"),
        ([{"sources": [{"path": "b"}]}], "a source has no sources of its own"),
        ([{"path": "a", "rewards": ["beauty"]}], "rewards of source a must name one of the rewards"),
        ([{"path": "a", "held_out": 0}, {"path": "b", "weight": 0}], "greater than 0"),
    ],
)
def test_what_a_mixture_may_not_say(problems: Any, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        stage(problems)


def test_a_mixture_in_a_recipe_file(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    """Paths are looked for beside the recipe, and the resolved recipe loads as itself."""
    write(tmp_path / "chat.jsonl", [{"prompt": "hello"}])
    file = write_recipe(problems=[{"path": "chat.jsonl"}, {"task": "chain_sum", "size": 3}])
    recipe = load_recipe(file, ["stages.1.problems.0.weight=2"])
    sources = recipe.stages[1].problems.sources or []
    assert [(source.path, source.weight) for source in sources] == [(str(tmp_path / "chat.jsonl"), 2.0), (None, 1.0)]
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_a_question_held_out_by_one_source_is_not_trained_on_by_another() -> None:
    p, q, r = (Problem(name, name, {}) for name in "pqr")
    one = ProblemSet(
        train=(p,), held_out=(q, r), prompt_ids={"p": (1,), "q": (2,), "r": (3,)}, dropped_long=1, duplicates=0
    )
    two = ProblemSet(train=(q,), held_out=(p,), prompt_ids={"p": (4,), "q": (5,)}, dropped_long=2, duplicates=3)
    both = mixed({"one": one, "two": two})
    assert both.train == ()
    assert [problem.id for problem in both.held_out] == ["one:q", "two:p", "one:r"]  # in turns
    assert both.prompt_ids["two:p"] == (4,)
    assert (both.dropped_long, both.duplicates, both.held_out_elsewhere) == (3, 3, 2)


def test_each_source_has_its_template_and_its_rewards(tmp_path: Path, byte_tokenizer: Any) -> None:
    sums = write(tmp_path / "sums.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    chat = write(tmp_path / "chat.jsonl", [{"prompt": "hello"}])
    plain = {"template": {"kind": "plain", "prefill": "<think>"}, "held_out": 0}
    told = stage(
        [{"path": sums, **plain}, {"path": chat, "template": {"kind": "plain"}, "held_out": 0, "rewards": ["length"]}]
    )
    run = StageRun(1, tmp_path, 0, ModelSettings(path="m"), "m", {}, Accelerator(cpu=True), SilentDisplay())
    task = load_task(told.problems, load_judges(told.rewards, run), byte_tokenizer, run)
    by_source = {problem.source: problem for problem in task.problems.train}
    assert byte_tokenizer.decode(task.problems.prompt_ids[by_source["sums"].id]) == "1+1=<think>"

    def group(source: str, text: str) -> Group:
        return Group(by_source[source], (1,), (Completion(text, (1, 2), (0.0, 0.0), "stop", 0),))

    words = "the answer to this question is easy to find</think>"
    asked = [group("chat", words), group("sums", f"{words} 2"), group("chat", f"<think>{words}")]
    scored = judge(task, asked, run).groups
    assert [one.group for one in scored] == asked
    parts = [one.scores[0].parts for one in scored]
    assert [part["accuracy"] for part in parts] == [None, 1.0, None]
    assert parts[1]["length"] == 1.0
    assert scored[1].scores[0].total == 1.5
    assert scored[2].scores[0].total == 0.5  # the gate that does not judge this source is open
    assert scored[2].scores[0].status == {"accuracy": "not_applicable", "length": "ok"}
    # Accuracy has nothing to say on chat: that is not a wrong answer.
    assert greedy_figures(scored, "accuracy")["accuracy"] == 1.0
    assert accuracy_of_sources(scored, "accuracy") == {"source/sums/accuracy": 1.0}
    figures = source_figures(scored)
    assert figures["source/chat/groups"] == pytest.approx(2 / 3)
    assert figures["source/sums/accuracy"] == 1.0
    assert "source/chat/accuracy" not in figures
    assert figures["source/sums/length_mean"] == 2.0


def test_what_a_reward_draws_depends_on_the_place_alone(tmp_path: Path, byte_tokenizer: Any) -> None:
    """So a resumed run, which scores no rollout twice, draws what an uninterrupted one does; so does the learner."""
    (tmp_path / "noisy.py").write_text(
        "import random, numpy, torch\n"
        "def noise(completion: str) -> float:\n"
        "    return random.random() + 10 * numpy.random.random() + 100 * torch.rand(()).item()\n"
    )
    source = {"path": write(tmp_path / "a.jsonl", [{"prompt": "1+1=", "answer": "2"}]), "held_out": 0}
    reward = [{"name": f"{tmp_path}/noisy.py:noise"}]
    settings = {"problems": source | {"template": {"kind": "plain"}}, "rewards": reward}
    told = GrpoStage.model_validate({"kind": "grpo", "lr": 1e-6, "steps": 1} | settings)
    run = StageRun(1, tmp_path, 0, ModelSettings(path="m"), "m", {}, Accelerator(cpu=True), SilentDisplay())
    task = load_task(told.problems, load_judges(told.rewards, run), byte_tokenizer, run)
    group = Group(task.problems.train[0], (1,), (Completion("2", (1,), (0.0,), "stop", 0),) * 2)

    def drawn(*place: int) -> list[float | None]:
        return [score.total for score in judge(task, [group], run, *place).groups[0].scores]

    random.seed(7)
    torch.manual_seed(7)
    expected = random.random(), torch.rand(()).item()
    random.seed(7)
    torch.manual_seed(7)
    first, second, again = drawn(3), drawn(4), drawn(3)
    assert first == again != second
    assert first[0] != first[1]
    assert (random.random(), torch.rand(()).item()) == expected


def test_the_best_may_be_chosen_by_a_source_that_begins_later(write_recipe: Callable[..., Path]) -> None:
    sums = {"function": "grpo.tasks.arithmetic:sums", "params": {"size": 60, "terms": 2, "max_value": 20}}
    sources = [{**sums, "label": "here"}, {**sums, "label": "late", "first_step": 3}]
    recipe = write_recipe(problems={"template": {"kind": "plain"}, "sources": sources})
    small = ("0.steps=1", "1.steps=5", "1.checkpoint_every=1", "1.keep_last=1", "1.keep_best=source/late/accuracy")
    assert train([str(recipe), *(f"--set=stages.{override}" for override in small)]) == 0
    kept = (recipe.parent / "runs" / "tiny" / "02-grpo" / "checkpoints").iterdir()
    assert sorted(path.name for path in kept) == ["step-000003", "step-000005"]  # all are 0: the first of equal ones


def test_a_run_with_two_sources_and_one_that_it_ends_before(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sums = {"function": "grpo.tasks.arithmetic:sums", "params": {"size": 60, "terms": 2, "max_value": 20}}
    both = [{**sums, "label": "here"}, {**sums, "label": "there", "weight": 3.0, "params": {"size": 40, "terms": 3}}]
    both += [{**sums, "label": "late", "first_step": 3}]
    recipe = write_recipe(problems={"template": {"kind": "plain"}, "sources": both})
    schedules = (
        "1.length_schedule=[{step: 2, max_new_tokens: 30}]",
        "1.temperature_schedule=[{step: 2, temperature: 1.5}, {step: 4, temperature: 1.6}]",
    )
    small = ("0.steps=1", "1.steps=2", "1.curriculum={}", *schedules)
    assert train([str(recipe), *(f"--set=stages.{override}" for override in small)]) == 0
    said = capsys.readouterr().out
    assert "01-sft: problems of source late begin at step 3 and the stage ends with 1: none is asked" in said
    assert "02-grpo: problems of source late begin at step 3 and the stage ends with 2: none is asked" in said
    assert "02-grpo: temperature_schedule: the entry of step 4 is never reached, as the stage ends with step 2" in said
    folder = recipe.parent / "runs" / "tiny" / "02-grpo"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["source/there/groups"] for row in rows if "loss" in row] == [0.75, 0.75]
    assert [row["completion/limit"] for row in rows if "loss" in row] == [24.0, 30.0]
    assert [row["temperature"] for row in rows if "loss" in row] == [1.0, 1.5]
    assert all(row["sampler/mismatch_max"] < 1e-3 for row in rows if "loss" in row)  # the learner knows
    assert all("evaluation/source/here/accuracy" in row for row in rows if "evaluation/accuracy" in row)
    seen = [row["curriculum/seen"] for row in rows if "loss" in row]
    assert seen == pytest.approx([seen[0], 2 * seen[0]])
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["source"] for sample in samples} == {"here", "there"}


def test_data_of_a_stage_as_a_source_has_that_stages_template_unless_more_is_said(
    write_recipe: Callable[..., Path],
) -> None:
    plain, sampled = {"template": {"kind": "plain"}, "held_out": 0.2}, {"kind": "rejection", "rewards": REWARDS}
    rest = {"kind": "sft", "steps": 1, "lr": 1e-3}
    said = {
        "held_out": 0.0,
        "sources": [{"stage": "rejection"}, {"stage": "rejection", "label": "more", "held_out": 0.5}],
    }
    stages = [sampled | {"problems": [plain | {"path": "a"}, plain | {"path": "b"}]}, rest | {"problems": said}]
    sources = load_recipe(write_recipe(stages=stages)).stages[1].problems.each
    assert [(source.template.kind, source.held_out) for source in sources] == [("plain", 0.0), ("plain", 0.5)]


def test_a_reward_for_some_columns_need_not_be_for_every_source() -> None:
    (reward,) = load_rewards([RewardSettings(name="accuracy", where={"set": "sums"})])
    sums, chat = Problem("p", "1+1=", {"set": "sums", "answer": "2"}), Problem("q", "hello", {})
    check_rewards([reward], [([reward], [sums]), ([reward], [chat])])
    with pytest.raises(UserError, match="matches none of 1 problems"):
        check_rewards([reward], [([], [sums]), ([reward], [chat])])
    with pytest.raises(UserError, match="needs answer"):
        check_rewards([reward], [([reward], [sums]), ([reward], [replace(sums, columns={"set": "sums"})])])
