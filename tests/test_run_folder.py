import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from grpo.recipe import Recipe
from grpo.recipe_file import dump_recipe
from grpo.run_folder import claim, environment, is_complete, locked, mark_complete
from grpo.types import UserError


def recipe(lr: float = 1e-3) -> Recipe:
    stage = {"kind": "sft", "lr": lr, "steps": 1, "problems": {"path": "p"}}
    return Recipe.model_validate({"name": "demo", "seed": 5, "model": {"path": "m"}, "stages": [stage]})


# --- one process at a time --------------------------------------------------------------------------------------------

TRY = """
import sys
from pathlib import Path
from grpo.run_folder import locked
from grpo.types import UserError
try:
    with locked(Path(sys.argv[1])):
        print("held")
except UserError as error:
    print(error)
"""


def said_by_another_process(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", TRY, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    with locked(folder):
        refused = f"{folder}: another process is running this recipe; wait for it or stop it"
        assert said_by_another_process(folder) == refused
    assert said_by_another_process(folder) == "held"


def test_the_lock_lies_beside_the_folder_and_another_run_has_its_own(tmp_path: Path) -> None:
    with locked(tmp_path / "one"), locked(tmp_path / "two"):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".one.lock", ".two.lock"]


def test_a_lock_outlives_no_process_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "demo"):
        raise RuntimeError
    with locked(tmp_path / "demo"):
        pass


def test_an_output_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with (
        pytest.raises(UserError, match=r"runs/demo: cannot be made .*; set output to a folder"),
        locked(tmp_path / "runs" / "demo"),
    ):
        pass


# --- whose folder it is -----------------------------------------------------------------------------------------------


def test_a_new_folder_holds_recipe_and_environment(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    claim(folder, recipe(), fresh=False)
    assert sorted(entry.name for entry in folder.iterdir()) == ["environment.json", "recipe.yaml"]
    assert (folder / "recipe.yaml").read_text() == dump_recipe(recipe())
    assert Recipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text())) == recipe()


def test_the_same_recipe_goes_on_and_leaves_everything_as_it_is(tmp_path: Path) -> None:
    claim(tmp_path / "demo", recipe(), fresh=False)
    (tmp_path / "demo" / "01-sft").mkdir()
    before = (tmp_path / "demo" / "environment.json").stat().st_mtime_ns
    claim(tmp_path / "demo", recipe(), fresh=False)
    assert (tmp_path / "demo" / "01-sft").exists()
    assert (tmp_path / "demo" / "environment.json").stat().st_mtime_ns == before


def test_another_recipe_is_refused_with_the_differences(tmp_path: Path) -> None:
    claim(tmp_path / "demo", recipe(), fresh=False)
    with pytest.raises(
        UserError, match=r"demo: belongs to another recipe; changed since: stages\.0\.lr: 0\.001 -> 0\.002\. .*--fresh"
    ):
        claim(tmp_path / "demo", recipe(lr=2e-3), fresh=False)
    assert (tmp_path / "demo" / "recipe.yaml").read_text() == dump_recipe(recipe())


def staged(*names: str, seed: int = 5) -> Recipe:
    """A recipe of stages that differ in their names, and each in its learning rate."""
    stages = [{**recipe(lr=10**-i).stages[0].model_dump(), "name": name} for i, name in enumerate(names, start=1)]
    return Recipe.model_validate({"name": "demo", "seed": seed, "model": {"path": "m"}, "stages": stages})


def refusal(folder: Path, now: Recipe) -> str:
    with pytest.raises(UserError) as said:
        claim(folder, now, fresh=False)
    return str(said.value)


def test_of_many_changes_the_names_of_stages_and_a_few_more_are_told(tmp_path: Path) -> None:
    claim(tmp_path / "demo", staged("warm", "hot"), fresh=False)
    said = refusal(tmp_path / "demo", staged("warm", "mild", "hot"))
    assert "changed since: stages.1.name: hot -> mild; stages.2.name: (absent) -> hot; stages.2." in said
    told = said.partition("changed since: ")[2].partition(". Take")[0].split("; ")
    assert len(told) == 6
    assert re.fullmatch(r"and \d+ more", told[-1])


def test_the_stage_to_do_again_from_is_named_where_it_helps(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    claim(folder, staged("warm", "hot"), fresh=False)
    assert refusal(folder, staged("warm", "mild")).endswith("is kept beside it), or --from 02-mild")
    assert refusal(folder, staged("cold", "hot")).endswith("is kept beside it), or --from 01-cold")
    assert refusal(folder, staged("warm", "mild", seed=6)).endswith("(the old run is kept beside it)")  # not in a stage
    assert refusal(folder, staged("warm")).endswith("(the old run is kept beside it)")  # no stage is left to name
    claim(folder, staged("warm", "mild"), fresh=False, redo_from=2)


def test_a_key_that_a_run_does_not_know_yet_is_a_change_only_where_it_is_set(tmp_path: Path) -> None:
    claim(tmp_path / "demo", recipe(), fresh=False)
    file = tmp_path / "demo" / "recipe.yaml"
    older = yaml.safe_load(file.read_text())
    assert older["stages"][0].pop("max_grad_norm") == 1.0
    file.write_text(yaml.safe_dump(older))
    claim(tmp_path / "demo", recipe(), fresh=False)
    now = recipe()
    tighter = now.model_copy(update={"stages": [now.stages[0].model_copy(update={"max_grad_norm": 0.5})]})
    with pytest.raises(UserError, match=r"changed since: stages\.0\.max_grad_norm: \(absent\) -> 0\.5\. "):
        claim(tmp_path / "demo", tighter, fresh=False)


def test_fresh_keeps_the_old_run_beside_the_new_one(tmp_path: Path) -> None:
    claim(tmp_path / "demo", recipe(), fresh=False)
    (tmp_path / "demo" / "precious").touch()
    claim(tmp_path / "demo", recipe(lr=2e-3), fresh=True)
    kept = next(entry for entry in tmp_path.iterdir() if entry.name != "demo")
    assert kept.name.startswith("demo.")
    assert (kept / "precious").exists()
    assert (kept / "recipe.yaml").read_text() == dump_recipe(recipe())
    assert not (tmp_path / "demo" / "precious").exists()
    assert (tmp_path / "demo" / "recipe.yaml").read_text() == dump_recipe(recipe(lr=2e-3))


def test_fresh_needs_no_earlier_run(tmp_path: Path) -> None:
    claim(tmp_path / "demo", recipe(), fresh=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"expected a run or an empty folder, found thesis\.tex; take another name"):
        claim(tmp_path, recipe(), fresh=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="found a file"):
        claim(tmp_path / "thesis.tex", recipe(), fresh=True)


@pytest.mark.parametrize(
    "left", [[], [".tmp-environment.json"], ["environment.json"], ["environment.json", ".tmp-recipe.yaml"]]
)
def test_a_claim_that_was_interrupted_is_taken_up(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text("{")
    claim(tmp_path, recipe(), fresh=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["environment.json", "recipe.yaml"]
    assert json.loads((tmp_path / "environment.json").read_text())["seed"] == 5


def test_a_spoilt_recipe_in_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UserError, match=r"recipe\.yaml: cannot be read: .*--fresh"):
        claim(tmp_path, recipe(), fresh=False)


# --- what is written there --------------------------------------------------------------------------------------------


def test_the_environment_says_what_a_run_depends_on() -> None:
    said = json.loads(json.dumps(environment(5)))
    assert said["seed"] == 5
    assert (
        said["versions"]["torch"] == torch.__version__.partition("+")[0]
        or said["versions"]["torch"] == torch.__version__
    )
    assert {"python", "grpo-train", "transformers", "accelerate", "peft", "datasets", "vllm"} <= said["versions"].keys()
    assert said["hardware"]["cores"] == os.cpu_count()
    assert len(said["hardware"]["gpus"]) == torch.cuda.device_count()
    assert said["command"] == sys.argv


def test_the_commit_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment(0)["git_commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert environment(0)["git_commit"] == head


def test_a_stage_is_complete_once_it_says_so(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "01-sft")
    mark_complete(tmp_path / "01-sft")
    assert is_complete(tmp_path / "01-sft")
