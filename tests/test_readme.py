"""What the README shows is true: recipes load, code is the example that is tested, keys and defaults exist."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from grpo.cli import train
from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.recipe import Recipe
from grpo.recipe_file import load_recipe
from grpo.rejection_stage import RejectionStage
from grpo.reward_model_stage import RewardModelStage
from grpo.rewards.registry import BUILT_IN, load_rewards
from grpo.sft_stage import SftStage

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGES = {
    "sft": SftStage,
    "grpo": GrpoStage,
    "rejection": RejectionStage,
    "evaluate": EvaluateStage,
    "reward_model": RewardModelStage,
}
WHOLE = {"name": "r", "model": {"path": "m"}, "problems": {"path": "p.jsonl"}, "rewards": [{"name": "accuracy"}]}
STAGE = {"kind": "grpo", "steps": 1, "lr": 1e-6}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def lines(program: str) -> list[list[str]]:
    """The command lines of the README that start a program, after its name."""
    commands = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [words[words.index(program) + 1 :] for words in commands if program in words]


def settings_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in settings_in(part)]


def default_of(key: str) -> Any:
    """The default of a key of the reference table, "required" when it has none; KeyError when there is no such key."""
    first, *rest = key.split(".")
    models: list[type[BaseModel]] = [STAGES[first]] if first in STAGES else [Recipe]
    for name in rest if first in STAGES else [first, *rest]:
        field = next((model.model_fields[name] for model in models if name in model.model_fields), None)
        if field is None:
            raise KeyError(f"{key}: {name} is not a key")
        models = settings_in(field.annotation)
    return "required" if field.is_required() else field.get_default(call_default_factory=True)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_recipe_of_the_readme_loads(block: str, tmp_path: Path) -> None:
    for file in (ROOT / "examples").glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shown = yaml.safe_load(block)
    file = tmp_path / "recipe.yaml"
    of_stage = {key: value for key, value in shown.items() if key not in Recipe.model_fields}
    of_recipe = {key: value for key, value in shown.items() if key in Recipe.model_fields}
    file.write_text(yaml.safe_dump({**WHOLE, "stages": [{**STAGE, **of_stage}], **of_recipe}), encoding="utf-8")
    recipe = load_recipe(file)
    if "rewards" in shown:
        names = [reward["name"].rpartition(":")[2] for reward in shown["rewards"]]
        assert [reward.name for reward in load_rewards(recipe.stages[-1].rewards)] == names


def test_the_reward_of_the_readme_is_the_example() -> None:
    assert blocks("python") == [(ROOT / "examples" / "own_reward.py").read_text(encoding="utf-8")]
    assert len(blocks("python")[0].splitlines()) == 8


def test_the_reference_names_keys_with_their_defaults() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `?([^`|]*?)`? \|", README, re.MULTILINE)
    assert len(rows) > 30
    wrong = {key: default for key, default in rows if yaml.safe_load(default) != default_of(key)}
    assert wrong == {}


def test_built_in_rewards_and_kinds_are_all_named() -> None:
    assert [name for name in BUILT_IN if f"`{name}`" not in README] == []
    kinds = [
        get_args(model.model_fields["kind"].annotation)[0]
        for part in ("loss", "advantage")
        for model in settings_in(GrpoStage.model_fields[part].annotation)
    ]
    assert [kind for kind in kinds if f"`{kind}`" not in README] == []


def test_the_mistake_of_the_readme_is_said_in_these_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**WHOLE, "stages": [{**STAGE, "completions_per_prompt": 1}]}))
    assert train([str(file)]) == 2
    assert f"```text\n{capsys.readouterr().err}```" in README


def test_commands_options_and_extras_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        train(["--help"])
    usage = capsys.readouterr().out
    options = {word for words in lines("grpo-train") for word in words if word.startswith("--")}
    assert options == {"--dry-run", "--set", "--fresh", "--from", "--until"}
    assert [option for option in options if option not in usage] == []
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [words[0] for words in lines("make") if words[0] not in targets] == []
    extras = {extra for found in re.findall(r"'\.\[([\w,-]+)\]'", README) for extra in found.split(",")}
    assert extras <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(text: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / text).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
