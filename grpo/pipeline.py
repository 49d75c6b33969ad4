"""The stages of a recipe one after the other: what is complete is skipped, what was interrupted goes on."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from grpo.display import Display, make_display
from grpo.metrics import require_trackers, start_trackers
from grpo.policy import save_policy
from grpo.preflight import check_ahead, stage_name
from grpo.recipe import Recipe
from grpo.run import StageRun
from grpo.run_folder import claim, is_complete, locked, mark_complete
from grpo.scratch import make_policy
from grpo.stages import evaluate, grpo, reward_model, sft
from grpo.types import UserError

STAGES: dict[str, Callable[[Any, StageRun], None]] = {
    "sft": sft.run,
    "grpo": grpo.run,
    "reward_model": reward_model.run,
    "evaluate": evaluate.run,
}


def run_recipe(recipe: Recipe, fresh: bool = False) -> Path:
    """Run every stage that is not complete yet and return the run's folder.

    Raises:
        UserError: the recipe, the data or the run's folder is not fit for it.
    """
    folder = Path(recipe.output) / recipe.name
    check_ahead(recipe)
    require_trackers(recipe.trackers)
    accelerator = Accelerator(log_with=list(recipe.trackers) or None, project_dir=folder)
    if accelerator.mixed_precision != "no":
        raise UserError(
            f"accelerate: mixed_precision is {accelerator.mixed_precision}; set a stage's precision instead"
        )
    with locked(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            claim(folder, recipe, fresh)
        accelerator.wait_for_everyone()
        start_trackers(accelerator, recipe.name, recipe.trackers, recipe.model_dump(mode="json"))
        display = make_display(recipe.name, accelerator.is_main_process)
        try:
            _run_stages(recipe, folder, accelerator, display)
        finally:
            display.close()
            accelerator.end_training()
    return folder


def _run_stages(recipe: Recipe, folder: Path, accelerator: Accelerator, display: Display) -> None:
    start = _base_model(recipe, folder, accelerator)
    models = {"base": start}
    reward_models: dict[str, str] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        name = stage_name(number, stage.kind)
        if is_complete(folder / name):
            display.note(f"{name} is complete")
        else:
            set_seed(recipe.seed + number)
            surroundings = StageRun(
                number=number,
                folder=folder / name,
                seed=recipe.seed,
                model=recipe.model,
                start_model=start,
                models=dict(models),
                reward_models=dict(reward_models),
                accelerator=accelerator,
                display=display,
            )
            STAGES[stage.kind](stage, surroundings)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                mark_complete(folder / name)
        if stage.kind == "reward_model":  # it judges policies and is none
            reward_models[name] = str(folder / name / "model")
        elif stage.kind != "evaluate":
            start = models[name] = str(folder / name / "model")


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
