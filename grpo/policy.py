"""The policy: a causal language model and its tokenizer, loaded, adapted and saved."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from grpo.families import EXPERTS, family_of
from grpo.files import atomic_folder
from grpo.pretrained import load_model, load_tokenizer
from grpo.recipe import LoraSettings, ModelSettings
from grpo.types import UserError


@dataclass(frozen=True)
class Policy:
    """A model to train, possibly with LoRA adapters, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    path: str


def load_policy(settings: ModelSettings, path: str, seed: int = 0) -> Policy:
    """Load the model in a folder or on the hub, with fresh LoRA adapters when the settings ask for them.

    `seed` draws the adapters' first values. The model is in eval mode.

    Raises:
        UserError: there is no usable model or tokenizer at `path`, or LoRA's targets are not in the model.
    """
    tokenizer = load_tokenizer(path, settings.trust_remote_code)
    model: nn.Module = load_model(path, settings, tokenizer)
    if settings.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = add_lora(model, settings.lora).eval()
    return Policy(model=model, tokenizer=tokenizer, path=path)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def add_lora(model: nn.Module, settings: LoraSettings) -> PeftModel:
    """Wrap a model, in place, in adapters that start as no change; only they are trained.

    Raises:
        UserError: a target named by the settings is no module of the model, or the model has no experts.
    """
    if settings.targets is not None:
        _check_targets(model, settings.targets)
    family_targets = family_of(model.config).lora_targets
    targets: Any = settings.targets or (family_targets if isinstance(family_targets, str) else list(family_targets))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a scale, used as the number it is
        lora_dropout=settings.dropout,
        target_modules=targets,
        target_parameters=_expert_tensors(model) if settings.experts else None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.lora: {type(model).__name__} can't be adapted: {reason[:300]}") from None


def _expert_tensors(model: nn.Module) -> list[str]:
    if not any(name.endswith(EXPERTS) for name, _ in model.named_parameters()):
        raise UserError(f"model.lora.experts: {type(model).__name__} has no routed experts: leave experts out")
    return list(EXPERTS)


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    """Allow the linear modules that a merged copy can hold: an output layer tied to the embedding is none of them."""
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names -= set(family_of(model.config).not_lora_targets)
    if model.config.tie_word_embeddings:  # type: ignore[union-attr]
        names.discard("lm_head")
    for target in targets:
        if target not in names:
            raise UserError(
                f"model.lora.targets: expected names of {type(model).__name__}'s modules ({', '.join(sorted(names))}), "
                f"got {target!r}: choose from them, or leave targets out"
            )


def merged_model(model: nn.Module) -> nn.Module:
    """The model without adapters: itself when it has none, otherwise a merged copy. `model` stays as it is."""
    if not isinstance(model, PeftModel):
        return model
    return copy.deepcopy(model).merge_and_unload()


# --- saving -----------------------------------------------------------------------------------------------------------


def save_policy(policy: Policy, folder: Path) -> None:
    """Write model and tokenizer for transformers' from_pretrained, in the model's dtype, with LoRA merged in.

    The folder is complete or absent. Raises UserError when the disk is full.
    """
    with atomic_folder(folder) as unfinished:
        merged_model(policy.model).save_pretrained(unfinished)  # type: ignore[operator]
        policy.tokenizer.save_pretrained(unfinished)


def trainable_parameters(policy: Policy) -> list[nn.Parameter]:
    """The parameters an optimizer moves: all of them, or the adapters alone under LoRA."""
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def parameter_count(policy: Policy) -> int:
    """All parameters, adapters included, tied ones once."""
    return sum(parameter.numel() for parameter in policy.model.parameters())


# --- the reference ----------------------------------------------------------------------------------------------------


class Reference(Protocol):
    """The model that the KL penalty measures distance from. It is made before a checkpoint changes the policy."""

    def model(self) -> AbstractContextManager[nn.Module]:
        """Lend the reference, in eval mode; run it under no_grad and finish with it inside the block."""
        ...

    def refresh(self, policy: Policy) -> None:
        """Make the policy of this moment the reference."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: nothing, until the first refresh."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave; nothing leaves the reference as it was made."""
        ...


def make_reference(policy: Policy) -> Reference:
    """A frozen copy of the model or, under LoRA, the same model with its adapters switched off."""
    return AdapterReference(policy.model) if isinstance(policy.model, PeftModel) else CopiedReference(policy.model)


class CopiedReference:
    """A second model with weights of its own."""

    def __init__(self, model: nn.Module) -> None:
        self._copy = copy.deepcopy(model).eval().requires_grad_(False)
        self._is_refreshed = False

    @contextmanager
    def model(self) -> Iterator[nn.Module]:
        """Lend the copy."""
        yield self._copy

    def refresh(self, policy: Policy) -> None:
        """Copy the policy's weights."""
        self._copy.load_state_dict(policy.model.state_dict())
        self._is_refreshed = True

    def state_dict(self) -> dict[str, Tensor]:
        """The whole copy once it has been refreshed."""
        return self._copy.state_dict() if self._is_refreshed else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a refreshed copy."""
        if state:
            self._copy.load_state_dict(state)
            self._is_refreshed = True


class AdapterReference:
    """The policy's own base model: without the adapters or, once refreshed, with a snapshot of them in their place."""

    def __init__(self, model: PeftModel) -> None:
        self._policy_model = model
        self._snapshot: dict[str, Tensor] = {}

    @contextmanager
    def model(self) -> Iterator[nn.Module]:
        """Lend the policy's model in the reference's state, and give it back as it was."""
        was_training = self._policy_model.training
        self._policy_model.eval()
        try:
            with self._swapped() if self._snapshot else self._policy_model.disable_adapter():
                yield self._policy_model
        finally:
            self._policy_model.train(was_training)

    def refresh(self, policy: Policy) -> None:
        """Keep a copy of the adapters of this moment."""
        self._snapshot = {name: tensor.detach().clone() for name, tensor in _adapters(policy.model).items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The snapshot of the adapters."""
        return dict(self._snapshot)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a snapshot of the adapters."""
        adapters = _adapters(self._policy_model)
        self._snapshot = {name: tensor.to(adapters[name].device, copy=True) for name, tensor in state.items()}

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        adapters = _adapters(self._policy_model)
        current = {name: adapter.data for name, adapter in adapters.items()}
        try:
            for name, adapter in adapters.items():
                adapter.data = self._snapshot[name]
            yield
        finally:
            for name, adapter in adapters.items():
                adapter.data = current[name]


def _adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
