"""Looking at a model's routers during a forward pass, and having them choose what they chose before.

Hooks live for one pass, so that nothing else is counted: neither a reference's pass, nor sampling, nor the second
computation of a layer in the backward pass.

Axes: T packed tokens, R rows that a router sees (T, or those of padded sequences), L routers, E experts, K chosen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from grpo.experts.routing import Segments, gate_weights, segments_of
from grpo.families import Router, family_of
from grpo.forward import row_map
from grpo.types import PackedTokens, UserError

Result = TypeVar("Result")


def base_of(model: nn.Module) -> Any:
    """The model below LoRA's adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def routers_of(model: nn.Module) -> list[Any]:
    """The modules that choose experts, from the first layer to the last; none in a dense model.

    Each is the gate of its layer and gives (logits, weights, experts) of its rows. The layer of multi-token prediction,
    which stands behind the model's own, has none of them.

    Raises:
        UserError: a layer is neither dense nor has a gate, so that its routing would go unseen.
    """
    if router_rule(model) is None:
        return []
    base = base_of(model)
    layers = base.get_decoder().layers[: base.config.get_text_config().num_hidden_layers]
    found = [getattr(layer.mlp, "gate", None) for layer in layers if not hasattr(layer.mlp, "down_proj")]
    if any(gate is None or not type(gate).__module__.startswith(("transformers.", "peft.")) for gate in found):
        raise UserError(
            f"model: expected each layer with experts to have a router of transformers' own called gate, got "
            f"{type(base).__name__} without, of transformers {version('transformers')}: install a version that "
            "grpo-train asks for, and leave trust_remote_code out"
        )
    return found


def router_layers(model: nn.Module) -> list[int]:
    """The number of the layer that each router belongs to, dense layers counted."""
    routers, layers = set(routers_of(model)), base_of(model).get_decoder().layers
    return [number for number, layer in enumerate(layers) if not routers.isdisjoint(layer.modules())]


def router_rule(model: nn.Module) -> Router | None:
    """How the model's routers weigh, as its family knows."""
    config = getattr(base_of(model), "config", None)
    router = None if config is None else family_of(config).router
    return None if router is None else router(config)


@dataclass(frozen=True)
class Routing:
    """What L routers made of T packed tokens: logits, each (T, E), and the experts that they chose by themselves."""

    router: Router
    logits_TE: tuple[Tensor, ...]
    experts_LTK: Tensor
    within: Segments


def observe(
    model: nn.Module,
    tokens: PackedTokens,
    replayed_TLK: Tensor | None,
    compute: Callable[[], Result],
) -> tuple[Result, Routing | None]:
    """Run `compute`, a forward pass over the tokens, and return with its result what the routers made of them.

    With `replayed_TLK` they choose those experts, while weights come from their own scores, through which gradients
    flow. A dense model has no routing.
    """
    rule, routers = router_rule(model), routers_of(model)
    if rule is None or not routers:
        return compute(), None
    token_R, row_T = row_map(model, tokens) or (None, None)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def note(layer: int, logits_RE: Tensor, experts_RK: Tensor) -> None:
        seen[layer] = logits_RE, experts_RK

    chosen = None if replayed_TLK is None else _Replay(rule, routers, replayed_TLK, token_R)
    with _listening(routers, note), nullcontext() if chosen is None else chosen.during_forward():
        result = compute()
    layers = [seen[layer] for layer in range(len(routers))]
    # Rows are taken here and not by the hook: what it saved in a layer, computing that again would miss.
    logits_TE = tuple(logits_RE if row_T is None else logits_RE[row_T] for logits_RE, _ in layers)
    experts_LRK = torch.stack([experts_RK for _, experts_RK in layers])
    return result, Routing(
        rule, logits_TE, experts_LRK if row_T is None else experts_LRK[:, row_T], segments_of(tokens)
    )


@contextmanager
def chosen_experts(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """Inside the block, the experts (R, K) that each router chose in the last pass, by the router's number."""
    last: dict[int, Tensor] = {}

    def note(layer: int, _: Tensor, experts_RK: Tensor) -> None:
        last[layer] = experts_RK

    with _listening(routers_of(model), note):
        yield last


@contextmanager
def _listening(routers: Sequence[nn.Module], note: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    def hook(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: note(layer, output[0], output[2].detach())

    with _hooked(routers, hook):
        yield


@contextmanager
def _hooked(routers: Sequence[nn.Module], hook: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    handles = [router.register_forward_hook(hook(layer)) for layer, router in enumerate(routers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- replay -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Replay:
    """Experts that routers are to choose."""

    router: Router
    routers: Sequence[nn.Module]
    chosen_TLK: Tensor
    token_R: Tensor | None

    def hooks(self) -> AbstractContextManager[None]:
        """Have the routers choose these experts."""
        return _hooked(self.routers, self._hook)

    @contextmanager
    def during_forward(self) -> Iterator[None]:
        """The same, also when a layer of this pass is computed again for the backward pass."""
        before = _ACTIVE.set(self)
        try:
            with self.hooks():
                yield
        finally:
            _ACTIVE.reset(before)

    def _hook(self, layer: int) -> Callable[..., Any]:
        def replace(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
            logits_RE, own_RK, _ = output
            chosen_TK = self.chosen_TLK[:, layer].to(logits_RE.device, torch.long)
            chosen_RK = chosen_TK if self.token_R is None else chosen_TK[self.token_R]
            return logits_RE, gate_weights(logits_RE, chosen_RK, self.router).to(own_RK.dtype), chosen_RK

        return replace


_ACTIVE: ContextVar[_Replay | None] = ContextVar("replay", default=None)


def recompute_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What torch's checkpoint enters when it computes a layer first and again: a replay holds both times."""
    replay = _ACTIVE.get()
    return nullcontext(), nullcontext() if replay is None else _Again(replay)


class _Again(AbstractContextManager[None]):
    """A replay that can be entered again and again: a layer is computed anew for every backward pass."""

    def __init__(self, replay: _Replay):
        self._replay = replay
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._replay.hooks())
        self._entered[-1].__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._entered.pop().__exit__(*raised)


# --- the bias ---------------------------------------------------------------------------------------------------------


def bias_buffers(model: nn.Module) -> list[Tensor]:
    """The biases that help to choose experts, one a router; none where the family has no such thing."""
    rule = router_rule(model)
    return [cast(Tensor, r.e_score_correction_bias) for r in routers_of(model)] if rule and rule.has_bias else []


def set_biases(model: nn.Module, biases: Sequence[Tensor]) -> None:
    """Give every router its bias, in float32: bfloat16 has no step of 1e-3 from 0.5 on."""
    routers = routers_of(model) if biases else []
    for router, bias in zip(routers, biases, strict=True):
        if router.e_score_correction_bias.dtype == torch.float32:
            router.e_score_correction_bias.copy_(bias)
        else:
            router.e_score_correction_bias = bias.float().to(router.e_score_correction_bias.device)
