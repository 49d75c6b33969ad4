"""Where a recipe's reward models lie: in an earlier stage, in a folder, on the hub."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo.reward_settings import RewardSettings
from grpo.types import UserError


def with_models(settings: Sequence[RewardSettings], stages: Mapping[str, str], device: Any) -> list[RewardSettings]:
    """The rewards with names of stages replaced by the folders of their models, and with the learner's device."""
    return [_with_model(one, stages, str(device)) if one.name == "reward_model" else one for one in settings]


def _with_model(settings: RewardSettings, stages: Mapping[str, str], device: str) -> RewardSettings:
    model = settings.options.get("model")
    found = {"model": stages.get(model, model)} if isinstance(model, str) else {}
    return settings.model_copy(update={"options": {"device": device, **settings.options, **found}})


def check_models(settings: Sequence[RewardSettings], stages: Collection[str]) -> None:
    """Raise UserError when a reward model is neither one of these stages' nor a classifier where it is said to lie.

    A name without a slash is a stage's. `one/two` is left to be looked for on the hub when its stage begins.
    """
    from grpo.scalar_model import check_is_classifier

    for one in settings:
        model = one.options.get("model") if one.name == "reward_model" else None
        if not isinstance(model, str) or model in stages:
            continue
        if "/" not in model:
            raise UserError(
                f"reward {one.shown_as}: {model} is none of the reward models so far ({', '.join(stages) or 'none'}): "
                "name an earlier stage of kind reward_model, or a path with a slash"
            )
        if Path(model).exists() or model.startswith(("/", ".", "~")):
            check_is_classifier(model)
