"""`precision: fp8_block`: which products of a model run in FP8, and when.

As in DeepSeek-V3 these are the linear layers and the experts. The embedding, the output head, what chooses experts,
norms, and attention's inner products keep the precision of autocast, as LoRA's adapters of linear layers do; weights
and gradients are float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from grpo.kernels.fp8_linear import fp8_linear, has_fp8_units
from grpo.mtp import plain_model
from grpo.types import UserError


class Switch:
    """Whether the model computes in FP8 at the moment: in the learner's passes, and not when it is sampled from."""

    def __init__(self) -> None:
        self._on = False

    def __bool__(self) -> bool:
        return self._on

    def __deepcopy__(self, memo: object) -> "Switch":
        """A copy of the model, such as the reference, goes by the same switch: it is to round as the policy does."""
        return self

    @contextmanager
    def on(self) -> Iterator[None]:
        """Compute in FP8 inside the block."""
        before, self._on = self._on, True
        try:
            yield
        finally:
            self._on = before


def use_fp8(model: nn.Module, switch: Switch) -> list[str]:
    """Have the model's linear layers and experts compute in FP8 whenever the switch is on. Returns notes for the user.

    Raises:
        UserError: there is nothing to compute in FP8, or the weights that are trained are not float32.
    """
    _demand_master_weights(model)
    linears = _linears(model)
    experts = [module for module in model.modules() if _is_experts(module)]
    if not linears and not experts:
        raise UserError(f"precision: fp8_block needs linear layers, {type(model).__name__} has none: set bf16")
    for modules, rounded in ((linears, _linear), (experts, _experts)):
        for module in modules:
            module.forward = partial(rounded, switch, module, module.forward)  # a partial is copied with its model
    return _notes(model, len(linears), len(experts))


def _demand_master_weights(model: nn.Module) -> None:
    trained = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    if trained - {"float32"}:
        raise UserError(
            f"precision: fp8_block trains weights in float32, got {', '.join(sorted(trained))}: set model.dtype: "
            "float32"
        )


def _linears(model: nn.Module) -> list[nn.Module]:
    """All but the output head, also that of scores, adapters, and those beside experts, which choose among them."""
    whole: Any = plain_model(model)
    head = whole.get_output_embeddings()
    body = getattr(whole, getattr(whole, "base_model_prefix", ""), whole)
    left_out = set(whole.modules()) - set(body.modules()) if head is None else set(head.modules())
    left_out |= {child for parent in model.modules() if hasattr(parent, "experts") for child in parent.children()}
    return [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module not in left_out and "lora_" not in name
    ]


def _is_experts(module: nn.Module) -> bool:
    """Experts as transformers fuses them, one tensor of a layer's; the attributes say how to read it."""
    fused = all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "down_proj"))
    return fused and isinstance(getattr(module, "down_proj", None), nn.Parameter)


def _notes(model: nn.Module, linears: int, experts: int) -> list[str]:
    device = next(model.parameters()).device
    what = f"{linears} linear layers" + (f" and {experts} layers' experts" if experts else "")
    notes = [f"precision: fp8_block: {what} compute in FP8"]
    if not has_fp8_units(device):
        notes.append(f"precision: fp8_block: {device.type} has no units for FP8 here: its rounding is imitated, slowly")
    left = {type(m).__name__ for m in model.modules() if not _is_experts(m) and _holds_fused_weights(m)}
    if left:
        notes.append(f"precision: fp8_block: {', '.join(sorted(left))} stay in bf16: their weights are fused otherwise")
    return notes


def _holds_fused_weights(module: nn.Module) -> bool:
    return any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))


def _linear(switch: Switch, module: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return fp8_linear(x, module.weight, module.bias) if switch else plain(x)


def _experts(
    switch: Switch,
    module: Any,
    plain: Callable[..., Tensor],
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    if not switch:
        return plain(hidden_states, top_k_index, top_k_weights)
    return fp8_experts(module, hidden_states, top_k_index, top_k_weights)


def fp8_experts(module: Any, hidden_TD: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Experts one after another, each on the tokens that chose it; a token's results are summed as it chose them.

    Axes: T tokens, D hidden units, K choices of a token, R = T * K rows sorted by expert.
    """
    order_R = index_TK.flatten().argsort(stable=True)
    counts = torch.bincount(index_TK.flatten(), minlength=module.num_experts).tolist()
    rows = hidden_TD[order_R // index_TK.shape[1]].split(counts)
    up, down = (_of_experts(module, name) for name in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj"))
    results = []
    for expert, row in enumerate(rows):
        if len(row):
            inner = fp8_linear(row, *up(expert))
            activated = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            results.append(fp8_linear(activated, *down(expert)))
    out_RD = torch.cat(results)[order_R.argsort()]
    return (out_RD.view(*index_TK.shape, -1) * weight_TK[..., None]).sum(1).to(hidden_TD.dtype)


def _of_experts(module: Any, name: str) -> Callable[[int], tuple[Tensor, Tensor | None]]:
    """From an expert's number to its weight (outputs, inputs) and bias."""
    weights = getattr(module, name).unbind(0)  # one gradient for all of them, not one of full size for each
    biases = getattr(module, f"{name}_bias").unbind(0) if module.has_bias else None

    def of(expert: int) -> tuple[Tensor, Tensor | None]:
        weight = weights[expert].mT if module.is_transposed else weights[expert]
        return weight, None if biases is None else biases[expert]

    return of
