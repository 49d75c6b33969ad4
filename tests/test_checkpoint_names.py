"""Weights by the names of a checkpoint are those of the merged model, whatever LoRA adapts."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from grpo.checkpoint_names import checkpoint_tensors
from grpo.families import family_of
from grpo.model_settings import LoraSettings
from grpo.policy import add_lora, merged_model
from grpo.rollout.adapters import sends_adapter
from grpo.types import UserError

EXPERTS = ["qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "deepseek_v3"]
IDS = torch.arange(24).reshape(2, 12)


def adapted(model: PreTrainedModel, targets: list[str] | None = None) -> nn.Module:
    """The model with adapters that have moved."""
    adapted = add_lora(model, LoraSettings(rank=2, targets=targets)).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return adapted


@pytest.mark.parametrize("family", ["llama", *EXPERTS])
def test_adapters_of_modules_and_of_experts_are_in_what_is_pushed(
    tiny_model: Callable[..., PreTrainedModel], family: str
) -> None:
    base = checkpoint_tensors(tiny_model(family))
    model = adapted(tiny_model(family))
    pushed, merged = checkpoint_tensors(model), checkpoint_tensors(merged_model(model))
    assert pushed.keys() == merged.keys() == base.keys()
    for name, tensor in pushed.items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-5, rtol=1e-5)
    moved = {name.split(".layers.1.")[-1] for name in base if not torch.equal(base[name], pushed[name])}
    expected = family_of(model.config).lora_targets
    assert {name.split(".")[-2] for name in moved if "experts" not in name} <= set(expected)
    assert any(".experts.2." in name for name in moved) == (family != "llama")


@pytest.mark.parametrize("family", EXPERTS)
def test_gradients_reach_the_experts_adapters(tiny_model: Callable[..., PreTrainedModel], family: str) -> None:
    model = adapted(tiny_model(family))
    model(IDS).logits.square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and ".experts." in name}
    assert len(grads) >= 4  # A and B of two fused tensors
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_experts_can_be_left_out_or_named(tiny_model: Callable[..., PreTrainedModel]) -> None:
    def trained(targets: list[str] | None) -> set[str]:
        model = adapted(tiny_model("deepseek_v3"), targets)
        return {name.split(".lora_")[0].split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}

    assert trained(["o_proj"]) == {"o_proj"}
    assert trained(["o_proj", "experts"]) == {"o_proj", "experts", "base_layer"}
    assert trained(["experts"]) == {"experts", "base_layer"}


def test_experts_and_dropout_are_one_sentence(tiny_model: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(UserError, match=r"adapters know no dropout, got 0\.1: set 0"):
        add_lora(tiny_model("mixtral"), LoraSettings(dropout=0.1))
    add_lora(tiny_model("mixtral"), LoraSettings(dropout=0.1, targets=["q_proj"]))


def test_adapters_of_experts_are_pushed_merged(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = adapted(tiny_model("qwen3_moe"))
    assert not sends_adapter(model, "auto")
    with pytest.raises(UserError, match="expected merged for adapters of experts"):
        sends_adapter(model, "adapter")
    assert sends_adapter(adapted(tiny_model("qwen3_moe"), ["q_proj"]), "adapter")
