"""From a YAML file and `--set` overrides to a checked Recipe, with one clear sentence for every mistake."""

import copy
import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grpo.mixture_settings import SAID_ONCE
from grpo.recipe import Recipe
from grpo.types import UserError, one_line

SHARED = {"problems": ("sft", "grpo", "rejection", "evaluate"), "rewards": ("grpo", "rejection", "evaluate")}
"""What a stage takes from the top of the recipe when it has none of its own, and which kinds of stage do."""

OF_SOURCE = ("template", "held_out", "max_prompt_tokens", "long_prompts")
"""What problems of an earlier stage take from those of that stage. Examples in its prompts are not learned from."""

PATHS = ("path", "file", "corpus", "folder", "start", "models", "examples")
MODELS = ("start", "models")
"""Keys whose value is a path when it has a slash, and otherwise a word such as base, or a stage."""
FUNCTIONS = ("function", "name")
"""Keys whose value may be `file.py:function`."""

FREE_FORM = ("options", "params", "config", "columns", "where")
"""Keys below which the recipe says nothing of its own."""

OPTION_PATHS = {"reward_model": "model", "judge": "template"}
"""Options of built-in rewards that may be paths, by the reward's name. A model is one when it says so."""

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "a list of at least {min_length}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}
"""What pydantic's kinds of mistakes ask for, in a user's words; its own words serve for the others."""

LONGEST_VALUE = 80
"""Characters of a wrong value that an error shows."""


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply `a.b=c` overrides, fill in what stages share, and check it.

    Relative paths in a recipe are looked for beside the recipe.

    Raises:
        UserError: the file is missing, is not YAML, or says something a recipe may not say.
    """
    raw = _read(path)
    for override in sorted(overrides or [], key=lambda override: override.startswith("stages.")):
        _adopt(raw, override)
        _apply(raw, override)
    try:
        recipe = Recipe.model_validate(_anchored(_with_shared(raw), path.parent.resolve()))
    except ValidationError as error:
        raise UserError(f"{path.name}: {sentence_of(error, raw)}") from None
    return recipe.model_copy(update={"problems": None, "rewards": None})


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default spelled out; loading it gives an equal recipe."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=120)


def _plain(value: Any) -> Any:
    """Settings as YAML has them. A key that is None is left out only where leaving it out means the same."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {name: _plain(part) for name, part in value if part is not None or fields[name].default is not None}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def differences(before: str, after: str) -> list[str]:
    """What changed between two resolved recipes, a line for every key: `stages.1.lr: 1e-06 -> 2e-06`."""
    left, right = _flat(yaml.safe_load(before)), _flat(yaml.safe_load(after))
    lines = {k: (_shown(left, k), _shown(right, k)) for k in left | right}
    return [f"{key}: {was} -> {now}" for key, (was, now) in lines.items() if was != now]


def _shown(flat: dict[str, Any], key: str) -> str:
    return str(flat[key]) if key in flat else "(absent)"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file; give the path of a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; give a YAML file in UTF-8") from None
    raw = _yaml(text, f"{path}")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of keys at the top, got {_brief(raw)}; see recipes/ for examples")
    return raw


def _yaml(text: str, where: str) -> Any:
    """Plain values from YAML text. ValueError is what PyYAML raises for a date such as 2026-13-01."""
    try:
        _check_keys_once(yaml.compose(text, Loader=yaml.SafeLoader), where)
        return _unshared(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: not valid YAML: {one_line(error)}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply, or a part that contains itself") from None


def _unshared(node: Any) -> Any:
    """The same values, with a copy wherever YAML's `*alias` repeats a part: an override changes one place alone."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(item) for item in node] if isinstance(node, list) else node


def _check_keys_once(node: yaml.Node | None, where: str) -> None:
    """Refuse a key that stands twice in a mapping: YAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys_once(item, where)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise UserError(f"{where}: line {key.start_mark.line + 1}: the key {key.value} stands twice; keep one")
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
            _check_keys_once(value, where)


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set `stages.1.lr=1e-6` in place; the value is read as YAML."""
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all([*parents, last]):
        raise UserError(f"--set {override}: expected key.path=value, such as stages.1.lr=1e-6")
    value = _yaml(text, f"--set {override}")
    node: Any = raw
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else _item(node, name, override)
    if isinstance(node, list):
        _item(node, last, override)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"--set {override}: {'.'.join(parents)} is a value, not a group of keys")


def _adopt(raw: dict[str, Any], override: str) -> None:
    """Give a stage its own copy of what the stages share, when an override such as `stages.1.problems.size=5` asks."""
    match override.partition("=")[0].split("."):
        case ["stages", number, key, _, *_] if key in SHARED and key in raw:
            stages = raw.get("stages")
            if isinstance(stages, list) and number.isdigit() and int(number) < len(stages):
                stage = stages[int(number)]
                if isinstance(stage, dict):
                    stage.setdefault(key, copy.deepcopy(raw[key]))


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
    return raw | {"stages": _with_sources([complete(stage) for stage in stages])} if isinstance(stages, list) else raw


def _with_sources(stages: list[Any]) -> list[Any]:
    """The stages in which data of an earlier one has that one's template and split, where nothing else is said."""

    def complete(problems: Any, earlier: list[Any]) -> Any:
        if isinstance(problems, list):
            return [complete(source, earlier) for source in problems]
        if isinstance(problems, dict) and isinstance(problems.get("sources"), list):
            beside = {key: problems[key] for key in SAID_ONCE if key in problems}
            taken = [complete(beside | one if isinstance(one, dict) else one, earlier) for one in problems["sources"]]
            return problems | {"sources": taken}
        if not isinstance(problems, dict) or "stage" not in problems:
            return problems
        names = (problems["stage"], str(problems["stage"]).lstrip("0123456789").removeprefix("-"))
        made = [one for one in earlier if isinstance(one, dict) and one.get("name", one.get("kind")) in names]
        return (_of_source(made[-1].get("problems")) if made else {}) | problems

    done: list[Any] = []
    for stage in stages:
        has_problems = isinstance(stage, dict) and "problems" in stage
        done.append(stage | {"problems": complete(stage["problems"], done)} if has_problems else stage)
    return done


def _of_source(problems: Any) -> dict[str, Any]:
    """What data of a stage with these problems takes from them: of a mixture, what all of its sources say alike."""
    beside = {key: problems[key] for key in SAID_ONCE if key in problems} if isinstance(problems, dict) else {}
    listed = problems.get("sources") if isinstance(problems, dict) else problems
    sources = [beside | one for one in (listed if isinstance(listed, list) else [problems]) if isinstance(one, dict)]
    first = sources[0] if sources else {}
    taken = {
        key: first[key] for key in OF_SOURCE if key in first and all(one.get(key) == first[key] for one in sources)
    }
    if isinstance(taken.get("template"), dict):
        taken["template"] = {k: v for k, v in taken["template"].items() if k != "examples"}
    return taken


def _anchored(node: Any, folder: Path, key: str = "") -> Any:
    """Make paths absolute that name something beside the recipe; others stay as they are."""
    if isinstance(node, dict):
        anchored = {k: v if k in FREE_FORM else _anchored(v, folder, k) for k, v in node.items()}
        return anchored | _with_paths(node, folder)
    if isinstance(node, list):
        return [_anchored(item, folder, key) for item in node]
    if not isinstance(node, str):
        return node
    file, member = node, ""
    if key in FUNCTIONS:
        stem, colon, name = node.partition(".py:")
        file, member = (stem + ".py", ":" + name) if colon else ("", "")
    elif key not in PATHS or (key in MODELS and "/" not in node):
        return node
    return str((folder / file).resolve()) + member if file and _exists(folder / file) else node


def _with_paths(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The options of a built-in reward with their path made absolute; nothing for what is no such reward."""
    name, options = node.get("name"), node.get("options")
    option = OPTION_PATHS.get(name) if isinstance(name, str) else None
    if option is None or not isinstance(options, dict) or option not in options:
        return {}
    value = options[option]
    if name == "reward_model" and isinstance(value, str) and not _says_path(value):
        _check_no_folder(value, folder)
        return {}
    return {"options": options | {option: _anchored(value, folder, "path")}}


def _says_path(model: str) -> bool:
    """Whether a reward model's name is a path: `one` is a stage, `one/two` a model of the hub, `./one/two` a folder."""
    return model.startswith(("/", ".", "~")) or model.count("/") > 1


def _check_no_folder(model: str, folder: Path) -> None:
    """Refuse a name of the hub that is a folder's as well: reading either would be a guess."""
    found = [place for place in (folder / model, Path(model)) if "/" in model and _exists(place)]
    if found:
        raise UserError(
            f"reward_model: model {model} names a model of the hub, and {found[0]} is there too: write ./{model} for "
            "the folder, or move it away for the hub's"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # text too long for a name, such as a template in the place of its file
        return False


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict | list) and node:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {
            k: v for name, child in items for k, v in _flat(child, f"{prefix}.{name}" if prefix else f"{name}").items()
        }
    return {prefix: node}


# --- mistakes in one sentence -----------------------------------------------------------------------------------------


def sentence_of(error: ValidationError, raw: dict[str, Any]) -> str:
    """The first mistake of a recipe in one sentence."""
    details = error.errors(include_url=False)
    mistakes = list(dict.fromkeys(_describe(detail, _written_at(detail["loc"], raw)) for detail in details))
    return mistakes[0] + (f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else "")


def _written_at(loc: tuple[int | str, ...], raw: dict[str, Any]) -> tuple[int | str, ...]:
    """Where the user wrote it: what a stage takes from the top of the recipe is wrong there, and once."""
    match loc:
        case ("stages", int(i), str(), str(key), *rest) if key in SHARED and key in raw and key not in raw["stages"][i]:
            return (key, *rest)
    return loc


def _describe(detail: ErrorDetails, loc: tuple[int | str, ...]) -> str:
    model, where, last = _walk(loc)
    kind, ctx = detail["type"], detail.get("ctx", {})
    field = model.model_fields.get(last) if model else None
    why = f": {field.description}" if field and field.description else ""
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(last, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
        return f"{where} is not a key of a recipe; {hint}"
    if kind == "missing":
        return f"{where} is missing{why}"
    if kind == "union_tag_not_found":
        return f"{where}.kind is missing"
    if kind == "union_tag_invalid":
        return f"{where}.kind must be one of {ctx['expected_tags']}, got {_brief(ctx['tag'])}"
    if kind == "value_error":
        return f"{where or 'the recipe'}: {ctx['error']}"
    if kind == "invalid_key" or loc[-1] == "[key]":
        return f"{where or 'the recipe'}: keys must be text, got {_brief(detail['input'])}"
    expected = EXPECTED[kind].format(**ctx) if kind in EXPECTED else detail["msg"].removeprefix("Input should be ")
    return f"{where} must be {expected}, got {_brief(detail['input'])}{why}"


def _brief(value: Any) -> str:
    """A value as YAML would have it, on one line."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


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
        elif part == "[key]":
            text = text.rpartition("[")[0] or text
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
