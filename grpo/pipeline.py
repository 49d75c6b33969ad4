"""The stages of a recipe one after the other: what is complete is skipped, what was interrupted goes on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from grpo.chain import BASE, LEAVE_A_MODEL, Link, bound, chain, evaluated_sets, problem_sources, reward_models_of, span
from grpo.display import Display, make_display
from grpo.inputs import check_inputs, data_digest, file_digest, model_digest
from grpo.metrics import require_trackers, start_trackers
from grpo.plan import plan
from grpo.plugins import code_file
from grpo.policy import save_policy
from grpo.preflight import check_ahead
from grpo.problem_settings import ProblemSettings
from grpo.processes import meet_on_cpu
from grpo.recipe import Recipe, Stage
from grpo.rejection_stage import RejectionStage
from grpo.report.command import leave_report
from grpo.run import StageRun
from grpo.run_folder import claim, is_complete, locked, mark_complete
from grpo.scratch import make_policy
from grpo.sft_stage import SftStage
from grpo.sources import origin, read_problems
from grpo.stages import evaluate, grpo, rejection, reward_model, sft
from grpo.types import UserError

STAGES: dict[str, Callable[[Any, StageRun], None]] = {
    "sft": sft.run,
    "grpo": grpo.run,
    "rejection": rejection.run,
    "reward_model": reward_model.run,
    "evaluate": evaluate.run,
}


def run_recipe(recipe: Recipe, fresh: bool = False, redo_from: str | None = None, until: str | None = None) -> Path:
    """Run every stage that is not complete yet and return the run's folder.

    `redo_from` names the first stage to do again, `until` the last one to do.

    Raises:
        UserError: the recipe, the data or the run's folder is not fit for it.
    """
    folder = Path(recipe.output) / recipe.name
    links = chain(recipe)
    first, last = span(links, redo_from, until)
    check_ahead(recipe, links, folder)
    require_trackers(recipe.trackers)
    accelerator = Accelerator(cpu=meet_on_cpu(), log_with=list(recipe.trackers) or None, project_dir=folder)
    if accelerator.mixed_precision != "no":
        raise UserError(
            f"accelerate: mixed_precision is {accelerator.mixed_precision}; set a stage's precision instead"
        )
    with locked(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            claim(folder, recipe, fresh, first)
        accelerator.wait_for_everyone()
        start_trackers(accelerator, recipe.name, recipe.trackers, recipe.model_dump(mode="json"))
        display = make_display(recipe.name, accelerator.is_main_process)
        try:
            display.table(f"{recipe.name}: {folder}", plan(links, folder, last))
            _run_stages(recipe, links[:last], folder, accelerator, display)
            if last < len(links):
                display.note(
                    f"stopped after {links[last - 1].name}; without --until it goes on with {links[last].name}"
                )
        finally:
            try:
                if accelerator.is_main_process:
                    display.note(leave_report(folder))
            finally:  # Ctrl-C ends a report that takes long
                display.close()
                accelerator.end_training()
    return folder


def _run_stages(
    recipe: Recipe, links: Sequence[Link], folder: Path, accelerator: Accelerator, display: Display
) -> None:
    models = {BASE: _base_model(recipe, folder, accelerator)}
    for link in links:
        stage = bound(link, links, folder)
        start = models.get(link.start or BASE, str(link.start))
        if accelerator.is_main_process:
            check_inputs(folder / link.name, _inputs(link, stage, start, models, _reward_models(link, folder), recipe))
        if is_complete(folder / link.name):
            display.note(f"{link.name} is complete")
        else:
            set_seed(recipe.seed + link.number)
            surroundings = StageRun(
                number=link.number,
                folder=folder / link.name,
                seed=recipe.seed,
                model=recipe.model,
                start_model=start,
                models={name: name for name in link.models} | models,  # a path is its own name
                reward_models=_reward_models(link, folder),
                accelerator=accelerator,
                display=display,
                evaluated=evaluated_sets(recipe),
            )
            STAGES[stage.kind](stage, surroundings)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                mark_complete(folder / link.name)
        if stage.kind in LEAVE_A_MODEL:
            models[link.name] = str(folder / link.name / "model")


def _reward_models(link: Link, folder: Path) -> dict[str, str]:
    """The folders of the earlier stages' models that judge in this one, by what its rewards call them."""
    return {name: str(folder / judge / "model") for name, judge in link.judges.items()}


def _inputs(
    link: Link,
    stage: Stage,
    start: str,
    models: Mapping[str, str],
    judges: Mapping[str, str],
    recipe: Recipe,
) -> dict[str, str]:
    """What the stage is given, by its name in a sentence."""
    given = {f"the model {name}": model_digest(models.get(name, name)) for name in link.models}
    if link.start is not None:
        given[f"the model that it starts from ({link.start})"] = model_digest(start)
    for name in reward_models_of(stage):
        given[f"the reward model {name}"] = model_digest(judges.get(name, name))
    if isinstance(stage, SftStage) and stage.teacher is not None:
        given[f"its teacher ({stage.teacher.path})"] = model_digest(stage.teacher.path)
    own = [(f"its data ({origin(source)})", source) for source in problem_sources(stage)]
    templates = [source.template.file for _, source in own if source.template.file is not None]
    given |= {f"the template's file ({path})": file_digest(path) for path in templates}
    for reward in getattr(stage, "rewards", ()):
        if ":" in reward.name and (path := code_file(reward.name)) is not None:
            given[f"the reward's file ({reward.name.rpartition(':')[0]})"] = file_digest(path)
    shown = dict.fromkeys(source.template.examples for _, source in own if source.template.examples is not None)
    examples = [(f"the file of examples ({path})", ProblemSettings(path=path)) for path in shown]
    decontaminates = isinstance(stage, RejectionStage) and stage.decontaminate is not None
    evaluated = [one.problems for one in evaluated_sets(recipe)] if decontaminates else []
    for name, source in [*own, *examples, *((f"evaluation data ({origin(one)})", one) for one in evaluated)]:
        given[name] = given.get(name, "") + data_digest(read_problems(source, recipe.seed))
    return given


def _base_model(recipe: Recipe, folder: Path, accelerator: Accelerator) -> str:
    """The model of the first stage: the recipe's path, or a folder made from scratch once."""
    if recipe.model.path is not None:
        return recipe.model.path
    made = folder / "00-base" / "model"
    if accelerator.is_main_process and not made.exists():
        assert recipe.model.init is not None  # the recipe has either a path or init
        save_policy(make_policy(recipe.model.init, recipe.seed), made)
    accelerator.wait_for_everyone()
    return str(made)
