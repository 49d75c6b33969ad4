"""The policy: a causal language model and its tokenizer, loaded, adapted and saved."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.experts.observe import bias_buffers, set_biases
from grpo.families import family_of
from grpo.files import atomic_folder
from grpo.model_settings import LoraSettings, ModelSettings
from grpo.mtp import add_predictor, own_parameters, predictor_of, predictor_prefix
from grpo.mtp_files import save_model
from grpo.pretrained import load_model, load_tokenizer
from grpo.types import UserError, one_line

ALL_EXPERTS = "experts"
"""What a recipe calls the routed experts among LoRA's targets."""

BIAS = "router-bias-"
"""What names of routers' biases begin with among a reference's tensors."""


@dataclass(frozen=True)
class Policy:
    """A model to train, possibly with LoRA adapters, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    path: str


def load_policy(settings: ModelSettings, path: str, seed: int = 0) -> Policy:
    """Load the model in a folder or on the hub, with a new predictor or LoRA adapters when the settings ask for them.

    `seed` draws their first values. The model is in eval mode.

    Raises:
        UserError: there is no usable model or tokenizer at `path`, or LoRA's targets are not in the model.
    """
    tokenizer = load_tokenizer(path, settings.trust_remote_code)
    base = load_model(path, settings, tokenizer)
    if settings.mtp == "add" and predictor_of(base) is None:
        add_predictor(base, seed)
    model: nn.Module = base
    if settings.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = add_lora(model, settings.lora).eval()
    return Policy(model=model, tokenizer=tokenizer, path=path)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def add_lora(model: nn.Module, settings: LoraSettings, task: str = "CAUSAL_LM") -> PeftModel:
    """Wrap a model, in place, in adapters that start as no change; only they, a predictor and a new head are trained.

    Raises:
        UserError: a target named by the settings is no module of the model, or the model has no experts.
    """
    if settings.targets is not None:
        _check_targets(model, settings.targets)
    predictor = predictor_of(model)
    family_targets = family_of(model.config).lora_targets
    targets: Any = settings.targets or (family_targets if isinstance(family_targets, str) else list(family_targets))
    experts = _adapted_experts(model, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a scale, used as the number it is
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else [name for name in targets if name != ALL_EXPERTS],
        target_parameters=experts,
        exclude_modules=None if predictor is None else rf"(.*\.)?{re.escape(predictor_prefix(model))}.*",
        task_type=task,
    )
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"model.lora: {type(model).__name__} can't be adapted: {one_line(error)}") from None
    for parameter in own_parameters(adapted):
        parameter.requires_grad_(True)  # it is one small layer, and a new one must be trained whole
    return adapted


def _adapted_experts(model: nn.Module, settings: LoraSettings) -> list[str] | None:
    """The fused expert tensors that are adapted: wherever there are some, unless the settings name other targets."""
    if settings.targets is not None and ALL_EXPERTS not in settings.targets:
        return None
    ends = tuple(f".{name}" for name in family_of(model.config).lora_experts)
    behind = predictor_prefix(model) if predictor_of(model) is not None else None
    found = [
        name for name, _ in model.named_parameters() if name.endswith(ends) and not (behind and name.startswith(behind))
    ]
    if found and settings.dropout:
        raise UserError(
            f"model.lora.dropout: {type(model).__name__} has experts, whose adapters know no dropout, got "
            f"{settings.dropout}: set 0, or name targets other than {ALL_EXPERTS}"
        )
    return found or None


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    """Allow the linear modules that a merged copy can hold: an output layer tied to the embedding is none of them."""
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    names -= set(family_of(model.config).not_lora_targets)
    names |= {ALL_EXPERTS} if family_of(model.config).lora_experts else set()
    if model.config.tie_word_embeddings:  # type: ignore[union-attr]
        names.discard("lm_head")
    for target in targets:
        if target not in names:
            raise UserError(
                f"model.lora.targets: expected names of {type(model).__name__}'s modules ({', '.join(sorted(names))}), "
                f"got {target!r}: choose from them, or leave targets out"
            )


def merged_model(model: nn.Module) -> nn.Module:
    """The model without adapters: itself when it has none, otherwise a merged copy. `model` stays as it is.

    The copy is made in the CPU's memory: beside the model a GPU may have no room for a second one.
    """
    if not isinstance(model, PeftModel):
        return model
    device = model.device
    copied = copy.deepcopy(model.to("cpu")).merge_and_unload()
    model.to(device)
    return copied


def lost_by_merging(model: nn.Module) -> float:
    """The share of what adapters have learned that rounding takes away when they are merged into 16-bit weights.

    A change below half of a weight's last bit leaves it as it was. 0 without adapters, or with weights in float32.
    """
    learned = lost = 0.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and layer.active_adapters:
            weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
            if weight.dtype == torch.float32:
                continue
            for adapter in layer.active_adapters:
                if adapter in layer.lora_A:
                    change = cast(Any, layer).get_delta_weight(adapter).float()
                    exact = weight.float() + change
                    learned += change.square().sum().item()
                    lost += (exact.to(weight.dtype).float() - exact).square().sum().item()
    return (lost / learned) ** 0.5 if learned else 0.0


# --- saving -----------------------------------------------------------------------------------------------------------


def save_policy(policy: Policy, folder: Path) -> None:
    """Write model and tokenizer for transformers' from_pretrained, in the model's dtype, with LoRA merged in.

    The folder is complete or absent. Raises UserError when the disk is full.
    """
    with atomic_folder(folder) as unfinished:
        save_model(cast(PreTrainedModel, merged_model(policy.model)), unfinished)
        policy.tokenizer.save_pretrained(unfinished)


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
    """The policy's own base model: without the adapters or, once refreshed, with a snapshot of them in their place.

    Routers' biases, which move beside the adapters, are the reference's own in either case.
    """

    def __init__(self, model: PeftModel) -> None:
        self._policy_model = model
        self._snapshot: dict[str, Tensor] = {}
        self._biases = _copies(bias_buffers(model))

    @contextmanager
    def model(self) -> Iterator[nn.Module]:
        """Lend the policy's model in the reference's state, and give it back as it was."""
        was_training = self._policy_model.training
        self._policy_model.eval()
        try:
            with self._own_biases(), self._swapped() if self._snapshot else self._policy_model.disable_adapter():
                yield self._policy_model
        finally:
            self._policy_model.train(was_training)

    def refresh(self, policy: Policy) -> None:
        """Keep a copy of the adapters of this moment."""
        self._snapshot = {name: tensor.detach().clone() for name, tensor in _adapters(policy.model).items()}
        self._biases = _copies(bias_buffers(policy.model))

    def state_dict(self) -> dict[str, Tensor]:
        """The snapshot of the adapters, and the biases of that moment."""
        biases = {f"{BIAS}{number}": bias for number, bias in enumerate(self._biases)} if self._snapshot else {}
        return self._snapshot | biases

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a snapshot of the adapters, and biases."""
        adapters = _adapters(self._policy_model)
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(BIAS)}
        self._snapshot = {name: tensor.to(adapters[name].device, copy=True) for name, tensor in kept.items()}
        biases = [state.get(f"{BIAS}{number}", bias) for number, bias in enumerate(self._biases)]
        self._biases = [new.to(old.device, copy=True) for new, old in zip(biases, self._biases, strict=True)]

    @contextmanager
    def _own_biases(self) -> Iterator[None]:
        current = _copies(bias_buffers(self._policy_model))
        set_biases(self._policy_model, self._biases)
        try:
            yield
        finally:
            set_biases(self._policy_model, current)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        adapters = _adapters(self._policy_model)
        current = {name: adapter.data for name, adapter in adapters.items()}
        try:
            for name, adapter in adapters.items():
                adapter.data = self._snapshot[name]
            torch.clear_autocast_cache()  # it knows weights by their tensors, which stay the same
            yield
        finally:
            for name, adapter in adapters.items():
                adapter.data = current[name]
            torch.clear_autocast_cache()


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
