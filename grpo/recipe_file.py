"""From a YAML file and `--set` overrides to a checked Recipe, with one clear sentence for every mistake."""

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grpo.recipe import Recipe
from grpo.types import UserError

SHARED = {"problems": ("sft", "grpo", "evaluate"), "rewards": ("grpo", "evaluate")}
"""What a stage takes from the top of the recipe when it has none of its own, and which kinds of stage do."""

PATHS = ("path", "file", "corpus")
FUNCTIONS = ("function", "name")
"""Keys whose value may be `file.py:function`."""

FREE_FORM = ("options", "params", "config")
"""Keys below which the recipe says nothing of its own."""


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply `a.b=c` overrides, fill in what stages share, and check it.

    Relative paths in a recipe are looked for beside the recipe.

    Raises:
        UserError: the file is missing, is not YAML, or says something a recipe may not say.
    """
    raw = _read(path)
    for override in overrides or []:
        _apply(raw, override)
    try:
        recipe = Recipe.model_validate(_anchored(_with_shared(raw), path.parent.resolve()))
    except ValidationError as error:
        raise UserError(_sentence(path.name, error)) from None
    return recipe.model_copy(update={"problems": None, "rewards": None})


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default spelled out; loading it gives an equal recipe."""
    content = recipe.model_dump(exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def differences(before: str, after: str) -> list[str]:
    """What changed between two resolved recipes, a line for every key: `stages.1.lr: 1e-06 -> 2e-06`."""
    old, new = _flat(yaml.safe_load(before)), _flat(yaml.safe_load(after))
    keys = [*old, *(key for key in new if key not in old)]
    return [f"{k}: {old.get(k, '(absent)')} -> {new.get(k, '(absent)')}" for k in keys if old.get(k) != new.get(k)]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file; give the path of a YAML file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of keys at the top, got {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set `stages.1.lr=1e-6` in place; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected key.path=value")
    *parents, last = key.split(".")
    node: Any = raw
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else _item(node, name, override)
    if isinstance(node, list):
        _item(node, last, override)
        node[int(last)] = yaml.safe_load(text)
    elif isinstance(node, dict):
        node[last] = yaml.safe_load(text)
    else:
        raise UserError(f"--set {override}: {'.'.join(parents)} is a value, not a group of keys")


def _item(node: Any, name: str, override: str) -> Any:
    if not isinstance(node, list) or not name.isdigit() or int(name) >= len(node):
        size = f"a list of {len(node)}, counted from 0" if isinstance(node, list) else "a value"
        raise UserError(f"--set {override}: {name} does not fit {size}")
    return node[int(name)]


def _with_shared(raw: dict[str, Any]) -> dict[str, Any]:
    """The recipe in which each stage has the recipe's problems and rewards where it has none of its own."""

    def complete(stage: Any) -> Any:
        if not isinstance(stage, dict):
            return stage
        return {key: raw[key] for key, kinds in SHARED.items() if key in raw and stage.get("kind") in kinds} | stage

    stages = raw.get("stages")
    return raw | {"stages": [complete(stage) for stage in stages]} if isinstance(stages, list) else raw


def _anchored(node: Any, folder: Path, key: str = "") -> Any:
    """Make paths absolute that name something beside the recipe; others stay as they are."""
    if isinstance(node, dict):
        return {k: v if k in FREE_FORM else _anchored(v, folder, k) for k, v in node.items()}
    if isinstance(node, list):
        return [_anchored(item, folder, key) for item in node]
    if not isinstance(node, str):
        return node
    file, member = node, ""
    if key in FUNCTIONS:
        stem, colon, name = node.partition(".py:")
        file, member = (stem + ".py", ":" + name) if colon else ("", "")
    elif key not in PATHS:
        return node
    return str((folder / file).resolve()) + member if file and (folder / file).exists() else node


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict | list) and node:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {
            k: v for name, child in items for k, v in _flat(child, f"{prefix}.{name}" if prefix else f"{name}").items()
        }
    return {prefix: node}


# --- mistakes in one sentence -----------------------------------------------------------------------------------------


def _sentence(file: str, error: ValidationError) -> str:
    details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{file}: {_describe(details[0])}{more}"


def _describe(detail: ErrorDetails) -> str:
    model, where, last = _walk(detail["loc"])
    kind, got = detail["type"], detail["input"]
    field = model.model_fields.get(last) if model else None
    why = f": {field.description}" if field and field.description else ""
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
        return f"{where} is not a key of a recipe; {hint}"
    if kind == "missing":
        return f"{where} is missing{why}"
    if kind.startswith("union_tag"):
        ctx = detail.get("ctx", {})
        tags = ctx.get("expected_tags")
        return f"{where}.kind must be one of {tags}, got {ctx.get('tag')!r}" if tags else f"{where}.kind is missing"
    if kind == "value_error":
        return f"{where or 'the recipe'} {detail['ctx']['error']}"
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    message = message.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"{where} must be {message}, got {got!r}{why}"


def _walk(loc: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, str, str]:
    """Follow an error's location through the settings classes.

    Returns the class that holds the last key, the location as a person writes it (`stages[1].loss.clip_low`), and the
    last key. Pydantic puts the tag of a union into the location; a person does not.
    """
    owner: type[BaseModel] | None = None
    model: type[BaseModel] | None = Recipe
    tagged: dict[str, type[BaseModel]] = {}
    text, last = "", ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in tagged:
            model, tagged = tagged[part], {}
        else:
            text, last = f"{text}.{part}" if text else part, part
            owner = model
            field = owner.model_fields.get(part) if owner else None
            found = _settings_in(field.annotation) if field else []
            model = found[0] if len(found) == 1 else None
            tagged = {get_args(m.model_fields["kind"].annotation)[0]: m for m in found} if len(found) > 1 else {}
    return owner, text, last


def _settings_in(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class inside an annotation such as `list[A | B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _settings_in(part)]
