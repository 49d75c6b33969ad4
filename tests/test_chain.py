"""How stages chain: names, starts, data, and the order of things on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.chain import bound, chain, evaluated_sets
from grpo.cli import train
from grpo.inputs import WINDOW, WINDOWS, check_inputs, data_digest, model_digest
from grpo.recipe import Recipe
from grpo.types import Problem, UserError

PROBLEMS = {"path": "p.jsonl"}
REWARDS = [{"name": "accuracy"}]
SFT = {"kind": "sft", "lr": 1e-3, "steps": 1, "problems": PROBLEMS}
GRPO = {"kind": "grpo", "lr": 1e-6, "steps": 1, "problems": PROBLEMS, "rewards": REWARDS}
REJECTION = {"kind": "rejection", "problems": PROBLEMS, "rewards": REWARDS}
EVALUATE = {"kind": "evaluate", "problems": PROBLEMS, "rewards": REWARDS}


def recipe(*stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": "r", "model": {"path": "m"}, "stages": list(stages)})


def test_left_alone_each_stage_starts_from_the_one_before() -> None:
    links = chain(recipe(SFT, EVALUATE, GRPO, GRPO, EVALUATE))
    assert [link.name for link in links] == ["01-sft", "02-evaluate", "03-grpo", "04-grpo", "05-evaluate"]
    assert [link.start for link in links] == ["base", None, "01-sft", "03-grpo", None]
    assert links[1].models == ("base", "01-sft")
    assert links[4].models == ("base", "01-sft", "03-grpo", "04-grpo")


def test_a_stage_may_have_a_name_and_name_its_start(tmp_path: Path) -> None:
    links = chain(
        recipe(
            SFT | {"name": "cold"},
            GRPO | {"start": "cold"},
            SFT | {"start": "base"},
            GRPO | {"start": "02-grpo"},
            GRPO | {"start": str(tmp_path)},
            GRPO | {"start": "some-org/some-model"},
            EVALUATE | {"models": ["cold", "02-grpo", "a/b"]},
        )
    )
    assert [link.name for link in links[:2]] == ["01-cold", "02-grpo"]
    assert [link.start for link in links[1:6]] == ["01-cold", "base", "02-grpo", str(tmp_path), "some-org/some-model"]
    assert links[6].models == ("01-cold", "02-grpo", "a/b")


def test_a_stage_without_a_name_goes_by_its_kind() -> None:
    rejection = {"kind": "rejection", "problems": PROBLEMS, "rewards": REWARDS}
    links = chain(recipe(SFT, GRPO, rejection, SFT | {"start": "grpo", "problems": {"stage": "rejection"}}))
    assert (links[3].start, links[3].reads) == ("02-grpo", ("03-rejection",))


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (
            [SFT, GRPO | {"start": "03-sft"}, SFT],
            r"stages\[1\]\.start: '03-sft' is none of the models so far; use base",
        ),
        ([EVALUATE, GRPO | {"start": "01-evaluate"}], "is none of the models so far"),
        ([SFT | {"name": "a"}, SFT | {"name": "a"}], "the name 'a' is taken"),
        ([SFT | {"name": "previous"}], "the name 'previous' is taken"),
        ([SFT, EVALUATE | {"models": ["02-grpo"]}], r"stages\[1\]\.models: '02-grpo' is none of the models so far"),
        ([SFT, SFT, SFT | {"start": "sft"}], "'sft' may be 01-sft or 02-sft: say which"),
        ([SFT, SFT | {"problems": {"stage": "01-sft"}}], "no earlier stage that leaves data"),
    ],
)
def test_a_reference_that_leads_nowhere_is_said(stages: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chain(recipe(*stages))


# --- what a stage was given -------------------------------------------------------------------------------------------


def test_the_digest_of_data_depends_on_every_row_and_their_order() -> None:
    one, two = Problem("a", "1+1=", {"answer": "2"}), Problem("b", "1+2=", {"answer": "3"})
    digests = {data_digest(rows) for rows in ([one, two], [two, one], [one], [one, Problem("b", "1+2=", {})])}
    assert len(digests) == 4
    assert data_digest([one, two]) == data_digest([one, two])


def test_the_digest_of_a_model_sees_a_change_of_size_and_in_a_window(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray(WINDOW * WINDOWS * 2)
    file.write_bytes(content)
    first = model_digest(str(tmp_path))
    content[-1] = 1
    file.write_bytes(content)
    assert model_digest(str(tmp_path)) != first
    file.write_bytes(bytes(WINDOW * WINDOWS * 2))
    assert model_digest(str(tmp_path)) == first
    file.write_bytes(bytes(WINDOW * WINDOWS * 2 + 1))
    assert model_digest(str(tmp_path)) != first
    assert model_digest("some-org/some-model") == "some-org/some-model"


def test_inputs_are_remembered_from_the_beginning(tmp_path: Path) -> None:
    check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "1"})
    check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "1"})
    with pytest.raises(UserError, match=r"01-sft: its data \(a\.jsonl\) has changed since .* --from 01-sft"):
        check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "2"})


def test_a_stage_that_began_before_files_were_remembered_goes_on(tmp_path: Path) -> None:
    check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "1"})
    check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "1", "the reward's file (mine.py)": "2"})
    with pytest.raises(UserError, match=r"01-sft: evaluation data \(b\.jsonl\) has changed"):
        check_inputs(tmp_path / "01-sft", {"its data (a.jsonl)": "1", "evaluation data (b.jsonl)": "2"})


# --- runs -------------------------------------------------------------------------------------------------------------

RUN_STAGES = [
    {"kind": "sft", "name": "cold", "steps": 1, "examples_per_step": 2, "lr": 1e-3},
    {"kind": "sft", "steps": 1, "examples_per_step": 2, "lr": 1e-3},
    {"kind": "sft", "start": "base", "steps": 2, "examples_per_step": 2, "lr": 1e-3},
]


def weights(folder: Path) -> dict[str, bytes]:
    return {file.parent.parent.name: file.read_bytes() for file in folder.glob("*/model/model.safetensors")}


def test_until_stops_and_from_does_again_and_keeps(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(stages=RUN_STAGES)
    folder = recipe.parent / "runs" / "tiny"
    assert train([str(recipe), "--until", "cold"]) == 0
    out = capsys.readouterr().out
    assert "after --until" in out
    assert "stopped after 01-cold" in out
    assert weights(folder).keys() == {"00-base", "01-cold"}
    assert train([str(recipe)]) == 0
    first = weights(folder)
    assert first.keys() == {"00-base", "01-cold", "02-sft", "03-sft"}
    assert first["03-sft"] != first["02-sft"]

    assert train([str(recipe), "--set=stages.1.lr=2e-3", "--from", "03-sft"]) == 2
    assert "stages.1.lr" in capsys.readouterr().err
    before = (folder / "01-cold" / "model" / "model.safetensors").stat().st_mtime_ns
    assert train([str(recipe), "--set=stages.1.lr=2e-3", "--from", "02-sft"]) == 0
    again = weights(folder)
    assert (folder / "01-cold" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert again["02-sft"] != first["02-sft"]
    assert again["03-sft"] == first["03-sft"]  # it starts from the base
    kept = next((folder / "redone").iterdir())
    assert weights(kept) == {name: first[name] for name in ("02-sft", "03-sft")}
    assert "lr: 0.001" in (kept / "recipe.yaml").read_text()
    assert train([str(recipe), "--set=stages.1.lr=2e-3"]) == 0  # the new recipe is the folder's now


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_stages_that_there_are_not_are_refused(
    write_recipe: Callable[..., Path], dry: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(stages=RUN_STAGES))
    assert train([recipe, "--until", "warm", *dry]) == 2
    assert "--until: 'warm' is none of the stages; use 01-cold, 02-sft, 03-sft" in capsys.readouterr().err
    assert train([recipe, "--from", "03-sft", "--until", "cold", *dry]) == 2
    assert "--until cold: comes before --from 03-sft" in capsys.readouterr().err
    assert train([recipe, "--from", "cold", "--fresh", *dry]) == 2
    assert "--fresh starts over altogether" in capsys.readouterr().err


def test_a_stage_whose_data_or_start_has_changed_is_not_reused(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "completion": str(i + 1)} for i in range(8)]
    data.write_text("\n".join(map(json.dumps, rows)))
    problems = {"path": "data.jsonl", "template": {"kind": "plain"}}
    recipe = write_recipe(stages=[RUN_STAGES[0], RUN_STAGES[1] | {"problems": problems}])
    assert train([str(recipe)]) == 0
    data.write_text("\n".join(map(json.dumps, rows[1:])))
    capsys.readouterr()
    assert train([str(recipe)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("02-sft: its data (")
    assert "--from 02-sft" in error
    assert train([str(recipe), "--from", "02-sft"]) == 0

    model = tmp_path / "runs" / "tiny" / "01-cold" / "model" / "config.json"
    model.write_text(model.read_text() + "\n")
    capsys.readouterr()
    assert train([str(recipe)]) == 2
    assert capsys.readouterr().err.startswith("02-sft: the model that it starts from (01-cold) has changed")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--from", "04-sft"], "--from: '04-sft' is none of the stages; use 01-cold, 02-sft, 03-sft"),
        (["--from", "02-sft", "--until", "cold"], "comes before --from 02-sft"),
        (["--from", "02-sft"], "holds no run of which stages could be done again"),
        (["--from", "02-sft", "--fresh"], "leave out --from"),
        (["--set=stages.1.start=/nowhere/model"], "stages[1]: no model folder /nowhere/model"),
    ],
)
def test_options_that_make_no_sense_are_said(
    write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert train([str(write_recipe(stages=RUN_STAGES)), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_sources_of_a_mixture_may_be_data_of_a_stage(tmp_path: Path) -> None:
    mixture = {"sources": [{"stage": "rejection"}, {"path": "chat.jsonl"}]}
    links = chain(recipe(GRPO, REJECTION, SFT | {"problems": mixture}))
    assert links[2].reads == ("02-rejection",)
    problems = bound(links[2], links, tmp_path).problems
    assert [source.path for source in problems.each] == [str(tmp_path / "02-rejection/data.jsonl"), "chat.jsonl"]
    assert problems.names == ["rejection", "chat"], "figures name the stage, not its file"


def test_each_source_of_a_mixture_is_evaluated_on() -> None:
    sources = [{"path": "a.jsonl", "held_out": 0.2}, {"path": "b.jsonl"}]
    evaluate = {"kind": "evaluate", "problems": {"sources": sources}, "rewards": [{"name": "accuracy"}], "part": "all"}
    found = [(one.problems.path, one.problems.held_out, one.part) for one in evaluated_sets(recipe(GRPO, evaluate))]
    assert found == [("a.jsonl", 0.2, "all"), ("b.jsonl", 0.1, "all")]


def test_a_reward_model_judges_and_is_no_start() -> None:
    judge = {"kind": "reward_model", "lr": 1e-3, "steps": 1, "problems": PROBLEMS}
    named = [{"name": "reward_model", "options": {"model": model}} for model in ("helpful", "02-helpful", "owner/name")]
    rewards = [REWARDS[0], *[one | {"label": f"r{i}"} for i, one in enumerate(named)]]
    links = chain(recipe(SFT, judge | {"name": "helpful"}, GRPO | {"rewards": rewards}))
    assert links[2].judges == {"helpful": "02-helpful", "02-helpful": "02-helpful"}
    assert links[2].start == "01-sft"
    with pytest.raises(UserError, match="'helpful' is none of the models so far; use base, 01-sft"):
        chain(recipe(SFT, judge | {"name": "helpful"}, GRPO | {"start": "helpful"}))
    with pytest.raises(UserError, match="'reward_model' may be 01-reward_model or 02-reward_model: say which"):
        chain(
            recipe(judge, judge, GRPO | {"rewards": [{"name": "reward_model", "options": {"model": "reward_model"}}]})
        )


def test_an_edited_template_or_reward_is_no_silent_change(
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    template, reward, module = tmp_path / "asked.jinja", tmp_path / "mine.py", tmp_path / "their_module.py"
    template.write_text("{{ prompt }}")
    for code in (reward, module):
        code.write_text("def mine(completion):\n    return len(completion) / 100\n")
    monkeypatch.syspath_prepend(tmp_path)
    problems: dict[str, Any] = {
        "function": "grpo.tasks.arithmetic:sums",
        "params": {"size": 20, "terms": 2, "max_value": 20},
    }
    problems |= {"template": {"kind": "jinja", "file": "asked.jinja"}}
    stage = {"kind": "grpo", "steps": 1, "prompts_per_step": 2, "completions_per_prompt": 2, "lr": 1e-3}
    stage |= {"rollout": {"max_new_tokens": 4}}
    rewards = [{"name": "mine.py:mine"}, {"name": "their_module:mine", "label": "theirs"}]
    recipe = write_recipe(problems=problems, rewards=rewards, stages=[stage])
    assert train([str(recipe)]) == 0
    for file, name in ((template, "the template's file"), (reward, "the reward's file"), (module, "the reward's file")):
        before = file.read_text()
        file.write_text(before + " ")
        assert train([str(recipe)]) == 2
        said = capsys.readouterr().err
        assert f"01-grpo: {name}" in said
        assert f"{file.stem if file is module else file.name}) has changed since this stage began" in said
        file.write_text(before)
    assert train([str(recipe)]) == 0
