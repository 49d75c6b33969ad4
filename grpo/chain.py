"""How the stages of a recipe chain: their names, the model that each starts from, and the data that it reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.problem_settings import ProblemSettings, SourceSettings
from grpo.recipe import Recipe, Stage
from grpo.settings import Settings
from grpo.stage_settings import StartingStage
from grpo.types import UserError

LEAVE_A_MODEL = ("sft", "grpo")
LEAVE_A_JUDGE = ("reward_model",)
LEAVE_DATA = ("rejection",)
BASE, PREVIOUS = "base", "previous"
DATA = "data.jsonl"
"""The file of a stage that leaves data: a JSON object a line, with `prompt` and the columns of its problems."""
DATA_COLUMNS = ("completion", "source")
"""What a stage that leaves data adds to its problems' columns."""

AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class Link:
    """A stage and what it hangs on.

    `name` is its folder in the run's. `start` is `base`, the folder of an earlier stage, or a model's path; None where
    the stage reads several such models, `models`. `reads` are the folders of the stages whose data it reads, `judges`
    those of stages whose reward models it uses, by what its rewards call them.
    """

    number: int
    name: str
    stage: Stage
    start: str | None
    models: tuple[str, ...]
    reads: tuple[str, ...]
    judges: Mapping[str, str]


class EvaluatedSet(NamedTuple):
    """Problems that a stage evaluates on, of one source."""

    problems: ProblemSettings
    part: Literal["held_out", "train", "all"]


def chain(recipe: Recipe) -> list[Link]:
    """The stages with every reference resolved.

    Raises:
        UserError: two stages share a name, or one refers to what does not come before it.
    """
    names = [f"{number:02d}-{stage.name or stage.kind}" for number, stage in enumerate(recipe.stages, start=1)]
    given = [stage.name for stage in recipe.stages if stage.name is not None]
    for name in given:
        if given.count(name) > 1 or name in (BASE, PREVIOUS):
            raise UserError(f"stages: the name {name!r} is taken; give every stage another one, not base or previous")
    return [_link(recipe.stages[: i + 1], names[: i + 1]) for i in range(len(names))]


def find(links: Sequence[Link], name: str, where: str) -> Link:
    """The stage of a name: its folder's, the one the recipe gave it, or the kind of a stage without one.

    Raises:
        UserError: there is none, or several.
    """
    found = _named(name, {link.name: link.stage for link in links}, where)
    if found is None:
        raise UserError(f"{where}: {name!r} is none of the stages; use {', '.join(link.name for link in links)}")
    return next(link for link in links if link.name == found)


def span(links: Sequence[Link], redo_from: str | None, until: str | None) -> tuple[int | None, int]:
    """The numbers of the first stage to do again, if any, and of the last one to do.

    Raises:
        UserError: there is no such stage, or the last comes before the first.
    """
    first = None if redo_from is None else find(links, redo_from, "--from").number
    last = len(links) if until is None else find(links, until, "--until").number
    if first is not None and first > last:
        raise UserError(f"--until {until}: comes before --from {redo_from}; name a later stage")
    return first, last


def problem_sources(value: Any) -> Iterator[ProblemSettings]:
    """Every source of problems in a part of a recipe, however deep; of a mixture each, and not the mixture."""
    if isinstance(value, ProblemSettings):
        yield from value.each
    elif isinstance(value, Settings):
        for name in type(value).model_fields:
            yield from problem_sources(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from problem_sources(item)


def reward_models_of(stage: Stage) -> list[str]:
    """What a stage's rewards say of where their models are: a stage, a folder, a name of the hub."""
    models = [one.options.get("model") for one in getattr(stage, "rewards", ()) if one.name == "reward_model"]
    return [model for model in dict.fromkeys(models) if isinstance(model, str)]


def evaluated_sets(recipe: Recipe) -> list[EvaluatedSet]:
    """What the stages of a recipe evaluate on, without data that its own stages leave."""
    stages = [s for s in recipe.stages if isinstance(s, EvaluateStage)]
    found = [EvaluatedSet(source, s.part) for s in stages for source in s.problems.each]
    held_out = [s.problems for s in recipe.stages if isinstance(s, GrpoStage) and s.evaluation is not None]
    found += [EvaluatedSet(source, "held_out") for problems in held_out for source in problems.each]
    return [one for place, one in enumerate(found) if one.problems.stage is None and one not in found[:place]]


def bound(link: Link, links: Sequence[Link], folder: Path) -> Stage:
    """The stage as it runs: data of earlier stages as files of the run's folder, models by their folders' names."""
    names = {source.stage for source in problem_sources(link.stage) if source.stage is not None}
    before = links[: link.number - 1]
    files = {name: str(folder / find(before, name, link.name).name / DATA) for name in names}
    stage = with_files(link.stage, files)
    if isinstance(stage, EvaluateStage) and stage.models is not None:
        return stage.model_copy(update={"models": list(link.models)})
    return stage


def with_files(settings: AnySettings, files: Mapping[str, str]) -> AnySettings:
    """The settings with problems of a stage in `files` read from there; a source of a mixture keeps its name."""
    if isinstance(settings, ProblemSettings) and settings.stage is not None:
        named = {"label": settings.shown_as} if isinstance(settings, SourceSettings) else {}
        return settings.model_copy(update={"path": files[settings.stage], "stage": None, **named})
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    changed = {
        name: _with_files(value, files)
        for name, value in values.items()
        if any(source.stage for source in problem_sources(value))
    }
    return settings.model_copy(update=changed) if changed else settings


def _with_files(value: Any, files: Mapping[str, str]) -> Any:
    return [with_files(item, files) for item in value] if isinstance(value, list) else with_files(value, files)


# --- one stage --------------------------------------------------------------------------------------------------------


def _link(stages: Sequence[Stage], names: Sequence[str]) -> Link:
    """The link of the last of these stages."""
    *before, stage = stages
    where = f"stages[{len(before)}]"
    earlier = dict(zip(names, before, strict=False))
    with_model = [name for name, one in earlier.items() if one.kind in LEAVE_A_MODEL]
    start = _start(stage.start, earlier, with_model, f"{where}.start") if isinstance(stage, StartingStage) else None
    models = stage.models or [BASE, *with_model] if isinstance(stage, EvaluateStage) else ()
    sources = [source.stage for source in problem_sources(stage) if source.stage is not None]
    return Link(
        number=len(stages),
        name=names[-1],
        stage=stage,
        start=start,
        models=tuple(_start(name, earlier, with_model, f"{where}.models") for name in models),
        reads=tuple(_data(name, earlier, f"{where}.problems.stage") for name in sources),
        judges=_judges(stage, earlier, f"{where}.rewards"),
    )


def _judges(stage: Stage, earlier: Mapping[str, Stage], where: str) -> dict[str, str]:
    """The folders of earlier stages that a stage's rewards name. Other models lie on disk or on the hub."""
    with_judge = {name: one for name, one in earlier.items() if one.kind in LEAVE_A_JUDGE}
    found = {name: _named(name, with_judge, where) for name in reward_models_of(stage)}
    return {name: folder for name, folder in found.items() if folder is not None}


def _start(start: str, earlier: Mapping[str, Stage], with_model: Sequence[str], where: str) -> str:
    """The model of a name: `base`, the folder of an earlier stage, or a path as it is."""
    if start == PREVIOUS:
        return with_model[-1] if with_model else BASE
    looks_like_a_model = "/" in start or Path(start).is_dir()
    found = _named(start, earlier, where)
    if start == BASE or (looks_like_a_model and not found):
        return start
    if found is None or found not in with_model:
        known = ", ".join([BASE, *with_model])
        raise UserError(f"{where}: {start!r} is none of the models so far; use {known}, or a path with a slash")
    return found


def _data(name: str, earlier: Mapping[str, Stage], where: str) -> str:
    found = _named(name, earlier, where)
    if found is None or earlier[found].kind not in LEAVE_DATA:
        known = ", ".join(one for one, stage in earlier.items() if stage.kind in LEAVE_DATA)
        raise UserError(f"{where}: {name!r} is no earlier stage that leaves data; use {known or 'path'}")
    return found


def _named(name: str, earlier: Mapping[str, Stage], where: str) -> str | None:
    """The folder of the stage with this name, or None. Raises UserError when several have it."""
    found = [folder for folder, stage in earlier.items() if name in (folder, stage.name or stage.kind)]
    if len(found) > 1:
        raise UserError(f"{where}: {name!r} may be {' or '.join(found)}: say which")
    return found[0] if found else None
