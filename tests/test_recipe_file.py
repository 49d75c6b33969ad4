from pathlib import Path

import pytest
import yaml

from grpo.advantage_settings import GroupAdvantage, RlooAdvantage
from grpo.grpo_stage import GrpoStage
from grpo.loss_settings import CispoLoss, GrpoLoss
from grpo.recipe import Recipe
from grpo.recipe_file import differences, dump_recipe, load_recipe
from grpo.types import UserError

BASE = """
name: demo
model: {path: some-org/some-model}
problems: {path: p.jsonl}
rewards: [{name: accuracy}]
stages:
  - {kind: sft, lr: 1e-3, steps: 2}
  - {kind: grpo, lr: 1e-6, steps: 2}
  - {kind: evaluate}
"""


def load(folder: Path, *overrides: str, text: str = BASE) -> Recipe:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "r.yaml", list(overrides))


def grpo_stage(recipe: Recipe) -> GrpoStage:
    return next(stage for stage in recipe.stages if isinstance(stage, GrpoStage))


def sentence(folder: Path, *overrides: str, text: str = BASE) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, *overrides, text=text)
    return str(caught.value)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda f: f.stem)
def test_recipes_that_come_along_load(file: Path) -> None:
    assert load_recipe(file).name == file.stem


def test_an_override_changes_one_of_several_places_that_share_an_alias(tmp_path: Path) -> None:
    text = BASE.replace("problems: {path: p.jsonl}", "problems: &p {path: p.jsonl}")
    text = text.replace("lr: 1e-6, steps: 2}", "lr: 1e-6, steps: 2, problems: *p}")
    first, second, _ = load(tmp_path, "stages.1.problems.path=q.jsonl", text=text).stages
    assert (first.problems.path, second.problems.path) == ("p.jsonl", "q.jsonl")


def test_a_reward_models_name_is_a_stage_a_hub_name_or_says_that_it_is_a_path(tmp_path: Path) -> None:
    def read(model: str) -> str:
        option = f"stages.1.rewards=[{{name: reward_model, options: {{model: {model}}}}}]"
        return str(grpo_stage(load(tmp_path, option)).rewards[0].options["model"])

    (tmp_path / "org" / "name").mkdir(parents=True)
    assert read("org") == "org"  # a stage, although a folder has the name
    assert read("other/name") == "other/name"
    assert read("./org/name") == str(tmp_path / "org" / "name")
    with pytest.raises(
        UserError, match=r"model org/name names a model of the hub, and .*/org/name is there too: write"
    ):
        read("org/name")


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    # unknown keys, with the nearest known one
    "sed=1": "r.yaml: sed is not a key of a recipe; did you mean seed?",
    "stages.1.kl.bta=1": "r.yaml: stages[1].kl.bta is not a key of a recipe; did you mean beta?",
    "stages.1.advantage={kind: rloo, ddof: 1}": (
        "r.yaml: stages[1].advantage.ddof is not a key of a recipe; known keys are kind"
    ),
    # types
    "stages.1.lr=fast": "r.yaml: stages[1].lr must be a number, got 'fast'",
    "stages.1.lr=true": "r.yaml: stages[1].lr must be a number, got true",
    "stages.1.steps=true": "r.yaml: stages[1].steps must be a whole number, got true",
    "stages.1.steps=1.5": "r.yaml: stages[1].steps must be a whole number, got 1.5",
    "stages.1.steps=": "r.yaml: stages[1].steps must be a whole number, got nothing",
    "stages.1.mask_truncated=1": "r.yaml: stages[1].mask_truncated must be true or false, got 1: completions cut at "
    "max_new_tokens are not trained on",
    "stages.1.rollout=5": "r.yaml: stages[1].rollout must be a mapping, got 5",
    "stages.1=5": "r.yaml: stages[1] must be a mapping, got 5",
    "stages={}": "r.yaml: stages must be a list, got {}",
    "output=5": "r.yaml: output must be text, got 5: the folder in which the run's folder lies",
    "model.dtype=fp16": "r.yaml: model.dtype must be 'float32' or 'bfloat16', got 'fp16'",
    "stages.1.kind=ppo": "r.yaml: stages[1].kind must be one of 'sft', 'grpo', ",
    "stages.1.loss.kind=ppo": "r.yaml: stages[1].loss.kind must be one of 'grpo', 'dr_grpo', 'dapo', 'gspo', 'cispo', "
    "'gmpo', 'sapo', got 'ppo'",
    "stages.1.7=2": "r.yaml: stages[1].7 is not a key of a recipe; known keys are name, start, lr, ",
    # ranges, with the reason
    "stages.1.completions_per_prompt=1": (
        "r.yaml: stages[1].completions_per_prompt must be at least 2, got 1: advantages compare completions of one "
        "prompt"
    ),
    "stages.1.lr=0": "r.yaml: stages[1].lr must be greater than 0, got 0",
    "stages.1.lr=.nan": "r.yaml: stages[1].lr must be a finite number, got nan",
    "stages.1.loss.clip_low=-1": "r.yaml: stages[1].loss.clip_low must be at least 0, got -1",
    "stages.1.rollout.temperature=0": (
        "r.yaml: stages[1].rollout.temperature must be at least 0.01, got 0: the learner's logprobs use it too"
    ),
    "stages=[]": "r.yaml: stages must be a list of at least 1, got []",
    "stages.2.k=[]": "r.yaml: stages[2].k must be a list of at least 1, got []",
    "name=a b": "r.yaml: name must be text that matches ^\\w[\\w.-]*$, got 'a b': the name of the run's folder, of "
    "letters, digits, _ - .",
    "name=..": "r.yaml: name must be text that matches ",
    # parts that do not fit together
    "model={}": "r.yaml: model: needs exactly one of path, init, got none",
    "stages.0.epochs=3": "r.yaml: stages[0]: needs exactly one of steps, epochs, got steps, epochs",
    "stages.2.k=[16]": "r.yaml: stages[2]: k must be at most samples (8), got 16",
    "stages.2.accuracy=x": "r.yaml: stages[2]: accuracy must name one of the rewards (accuracy), got 'x'",
    "stages.1.evaluation={accuracy: x}": (
        "r.yaml: stages[1]: evaluation.accuracy must name one of the rewards (accuracy), got 'x'"
    ),
    # what stages share is wrong once, where it is written
    "problems.pth=1": "r.yaml: problems.pth is not a key of a recipe; did you mean path?",
    "problems.held_out=1": "r.yaml: problems.held_out must be less than 1, got 1: share kept out of training, by hash",
    "rewards=accuracy": "r.yaml: rewards must be a list, got 'accuracy'",
    "rewards=[]": "r.yaml: rewards must be a list of at least 1, got []",
    "problems.columns={5: a}": "r.yaml: problems.columns: keys must be text, got 5",
    # --set itself
    "lr": "--set lr: expected key.path=value, such as stages.1.lr=1e-6",
    "=1": "--set =1: expected key.path=value, such as stages.1.lr=1e-6",
    "a..b=1": "--set a..b=1: expected key.path=value, such as stages.1.lr=1e-6",
    "stages.3.lr=1": "--set stages.3.lr=1: 3 does not fit a list of 3, counted from 0",
    "stages.x.lr=1": "--set stages.x.lr=1: x does not fit a list of 3, counted from 0",
    "stages.3=1": "--set stages.3=1: 3 does not fit a list of 3, counted from 0",
    "name.x=1": "--set name.x=1: name is a value, not a group of keys",
    "seed=[": "--set seed=[: not valid YAML: ",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_sentence(tmp_path: Path, override: str) -> None:
    said, expected = sentence(tmp_path, override), MISTAKES[override]
    assert said.startswith(expected)
    assert said == expected or expected[-1] in " ,"
    assert "\n" not in said


FILES = {
    "- a\n": "expected a mapping of keys at the top, got ['a']",
    "": "expected a mapping of keys at the top, got nothing",
    "a: [1,\n b: 2": "not valid YAML: ",
    "a: !!python/object/apply:os.system ['true']": "not valid YAML: ",
    "name: 2026-13-01\n": "not valid YAML: ",
    "a: &a [*a]\n": "not valid YAML: nested too deeply, or a part that contains itself",
    "name: a\nseed: 1\nname: b\n": "line 3: the key name stands twice; keep one",
    "stages: [{lr: 1,\n lr: 2}]": "line 2: the key lr stands twice; keep one",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    assert sentence(tmp_path, text=text).startswith(f"{tmp_path / 'r.yaml'}: {FILES[text]}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe file; give the path of a YAML file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot be read: .*give a YAML file in UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_missing_keys(tmp_path: Path) -> None:
    assert sentence(tmp_path, text="name: a\nmodel: {path: m}\n") == "r.yaml: stages is missing"
    alone = "name: a\nmodel: {path: m}\nstages: [{kind: grpo, lr: 1, steps: 1}]\n"
    assert sentence(tmp_path, text=alone) == "r.yaml: stages[0].problems is missing (and 1 more)"
    no_kind = "name: a\nmodel: {path: m}\nstages: [{lr: 1, steps: 1}]\n"
    assert sentence(tmp_path, text=no_kind) == "r.yaml: stages[0].kind is missing"


def test_further_mistakes_are_counted(tmp_path: Path) -> None:
    said = sentence(tmp_path, "problems.held_out=2", "seed=-1", "stages.1.lr=-1")
    assert said.endswith(" (and 2 more)")


def test_a_stage_s_own_problems_are_wrong_in_the_stage(tmp_path: Path) -> None:
    said = sentence(tmp_path, "stages.1.problems={path: p, size: x}")
    assert said.startswith("r.yaml: stages[1].problems.size must be a whole number, got 'x'")


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert len(sentence(tmp_path, "stages=" + "x" * 5000)) < 200


# --- what may be said -------------------------------------------------------------------------------------------------


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-6") == "1e-6"
    assert [stage.lr for stage in load(tmp_path).stages[:2]] == [1e-3, 1e-6]


def test_overrides(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, "seed=7", "stages.1.lr=2e-6", "stages.1.loss={kind: cispo}", "stages.1.advantage.ddof=0",
        "stages.2={kind: grpo, lr: 1, steps: 1, advantage: {kind: rloo}}", "rewards.0.weight=2", "stages.1.kl.beta=0",
    )  # fmt: skip
    stage, last = recipe.stages[1:]
    assert isinstance(stage, GrpoStage)
    assert isinstance(last, GrpoStage)
    assert (recipe.seed, stage.lr, stage.kl.beta, stage.rewards[0].weight) == (7, 2e-6, 0.0, 2.0)
    assert (stage.loss, stage.advantage, last.advantage) == (CispoLoss(kind="cispo"), GroupAdvantage(ddof=0),
                                                             RlooAdvantage(kind="rloo"))  # fmt: skip


def test_a_loss_without_a_kind_is_grpo_s(tmp_path: Path) -> None:
    assert grpo_stage(load(tmp_path, "stages.1.loss.clip_high=10")).loss == GrpoLoss(clip_high=10.0)


def test_stages_share_problems_and_rewards_unless_they_have_their_own(tmp_path: Path) -> None:
    recipe = load(tmp_path, "stages.1.problems={path: own.jsonl}")
    assert [stage.problems.path for stage in recipe.stages] == ["p.jsonl", "own.jsonl", "p.jsonl"]
    assert [stage.rewards[0].name for stage in recipe.stages if stage.kind != "sft"] == ["accuracy"] * 2
    assert (recipe.problems, recipe.rewards) == (None, None)


def test_paths_beside_the_recipe_become_absolute(tmp_path: Path) -> None:
    for name in ("p.jsonl", "rewards.py", "accuracy", "prompt.jinja", "answer", "sub"):
        (tmp_path / name).touch()
    overrides = [
        "rewards=[{name: 'rewards.py:score', options: {path: p.jsonl}}, {name: accuracy}, {name: 'gone.py:f'}]",
        "problems.columns={path: answer}", "problems.template={kind: jinja, file: prompt.jinja}",
    ]  # fmt: skip
    stage = grpo_stage(load(tmp_path, *overrides))
    assert stage.problems.path == str(tmp_path / "p.jsonl")
    assert stage.problems.template.file == str(tmp_path / "prompt.jinja")
    assert stage.problems.columns == {"path": "answer"}
    assert [r.name for r in stage.rewards] == [f"{tmp_path}/rewards.py:score", "accuracy", "gone.py:f"]
    assert stage.rewards[0].options == {"path": "p.jsonl"}


def test_other_names_stay_as_they_are(tmp_path: Path) -> None:
    template = "{{ prompt }} " * 100
    recipe = load(tmp_path, "problems.path=null", "problems.dataset=org/data",
                  f"problems.template={{kind: jinja, file: '{template}'}}")  # fmt: skip
    assert recipe.model.path == "some-org/some-model"
    assert recipe.name == "demo"
    assert recipe.stages[0].problems.template.file == template


# --- dump and differences ---------------------------------------------------------------------------------------------


def test_a_resolved_recipe_reloads_equal(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").touch()
    recipe = load(tmp_path, "stages.1.dynamic_sampling={}", "stages.1.loss={kind: cispo}")
    text = dump_recipe(recipe)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load(elsewhere, text=text) == recipe
    assert dump_recipe(load(elsewhere, text=text)) == text
    assert yaml.safe_load(text)["stages"][1]["adam_epsilon"] == 1e-8


def test_a_null_in_a_model_s_config_is_kept(tmp_path: Path) -> None:
    recipe = load(tmp_path, "model={init: {architecture: deepseek_v3, config: {q_lora_rank: null}}}")
    assert yaml.safe_load(dump_recipe(recipe))["model"]["init"]["config"] == {"q_lora_rank": None}


def test_a_null_that_switches_something_off_is_kept_and_is_a_difference(tmp_path: Path) -> None:
    """What an option is without being said may be more than nothing: data is decontaminated unless it says null."""
    rejection = "{kind: rejection, samples: 2, max_new_tokens: 8, keep_if: {accuracy: 1}"
    off = load(tmp_path, f"stages=[{rejection}, decontaminate: null, near_duplicates: null}}]")
    text = dump_recipe(off)
    assert yaml.safe_load(text)["stages"][0]["decontaminate"] is None
    assert load(tmp_path, text=text) == off
    usual = dump_recipe(load(tmp_path, f"stages=[{rejection}}}]"))
    assert {line.partition(":")[0].split(".")[2] for line in differences(text, usual)} == {
        "decontaminate",
        "near_duplicates",
    }


def test_differences_name_every_changed_key() -> None:
    before = "a: 1\nb: {c: [1, 2], d: x}\ne: {}\n"
    after = "a: 1\nb: {c: [1, 3], d: x}\nf: null\n"
    assert differences(before, after) == ["b.c.1: 2 -> 3", "e: {} -> (absent)", "f: (absent) -> None"]
    assert differences(before, before) == []


def test_a_changed_learning_rate_is_one_line(tmp_path: Path) -> None:
    before, after = dump_recipe(load(tmp_path)), dump_recipe(load(tmp_path, "stages.1.lr=2e-6"))
    assert differences(before, after) == ["stages.1.lr: 1e-06 -> 2e-06"]


def test_a_stage_overrides_its_copy_of_what_is_shared(tmp_path: Path) -> None:
    text = (
        "name: a\nmodel: {path: m}\nproblems: {task: chain_sum, size: 10}\nrewards: [{name: accuracy}]\n"
        "stages: [{kind: grpo, lr: 1, steps: 1}, {kind: evaluate}]\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "r.yaml", ["stages.1.problems.size=5", "problems.held_out=0.5"])
    assert [stage.problems.size for stage in recipe.stages] == [10, 5]
    assert [stage.problems.held_out for stage in recipe.stages] == [0.5, 0.5]
