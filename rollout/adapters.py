"""LoRA adapters that vLLM applies itself: a push sends their few weights and leaves the base model alone."""

import shutil
from pathlib import Path
from typing import Any, Literal, cast

from peft import PeftModel
from torch import nn

from grpo.families import family_of
from grpo.files import passing_folder
from grpo.types import UserError


def sends_adapter(model: nn.Module, wanted: Literal["auto", "adapter", "merged"]) -> bool:
    """Whether a push sends adapters alone: as wanted, and by itself where vLLM can apply them to every target.

    Raises:
        UserError: adapters alone are wanted, and some are of experts, which vLLM cannot apply as peft writes them.
    """
    if not isinstance(model, PeftModel) or wanted == "merged":
        return False
    family = family_of(model.config)
    config = cast(Any, model).peft_config["default"]
    if wanted == "adapter" and config.target_parameters:
        raise UserError(
            "rollout.vllm.lora: expected merged for adapters of experts, got adapter: say merged, or name "
            "model.lora.targets without experts"
        )
    targets = config.target_modules
    return wanted == "adapter" or (family.engine_lora and set(targets) <= set(family.lora_targets))


def adapter_rank(model: nn.Module) -> int:
    """The rank of a model's adapters."""
    return int(cast(Any, model).peft_config["default"].r)


class AdapterFiles:
    """Hands adapters over to vLLM as files, one folder a push. The newest alone is kept. `run` is the run's folder."""

    def __init__(self, run: Path) -> None:
        self._folder = passing_folder("adapters", run)
        self._pushes = 0

    def request(self, model: nn.Module) -> Any:
        """Write the adapters and name them for vLLM, which loads a number it knows no second time."""
        from vllm.lora.request import LoRARequest

        self._pushes += 1
        name = f"push-{self._pushes}"
        folder = Path(self._folder.name) / name
        cast(PeftModel, model).save_pretrained(str(folder), save_embedding_layers=False)
        for older in folder.parent.iterdir():
            if older != folder:
                shutil.rmtree(older)
        return LoRARequest(name, self._pushes, str(folder))

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()
