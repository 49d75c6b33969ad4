"""What routers are seen to do, and that they do again what they are told."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grpo.activations import recompute_layers
from grpo.batch import pack, packed_routes, token_indices
from grpo.experts.observe import Routing, observe, router_rule, routers_of
from grpo.forward import packs, prepare_packing, target_logprobs
from grpo.types import Routes, TokenSequence, UserError

FAMILIES = ["qwen2_moe", "qwen3_moe", "mixtral", "glm4_moe", "deepseek_v2", "deepseek_v3"]
SEQUENCES = [
    TokenSequence((5, 6, 7), (8, 9, 10, 11)),
    TokenSequence((5, 6, 7), (9, 3)),
    TokenSequence((12,), (13, 14, 15)),
]
TOKENS = pack(SEQUENCES, torch.device("cpu"))


@pytest.fixture
def moe(
    tiny_model: Callable[..., PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> Callable[[str], PreTrainedModel]:
    """`moe(family)`: a model that packs, with routers that have something to say."""

    def make(family: str) -> PreTrainedModel:
        model = tiny_model(family)
        for router in routers_of(model):
            nn.init.normal_(router.weight)
        assert prepare_packing(model, byte_tokenizer) == []
        return model

    return make


def seen(model: nn.Module, replayed_TLK: Tensor | None = None) -> tuple[Tensor, Routing]:
    logprobs_N, routing = observe(model, TOKENS, replayed_TLK, partial(target_logprobs, model, TOKENS))
    assert routing is not None
    return logprobs_N, routing


def others(routing: Routing) -> Tensor:
    """Experts (T, L, K) that differ from the chosen ones for every token: of four experts, the two that were not."""
    chosen_LTE = torch.zeros(*routing.experts_LTK.shape[:2], 4).scatter(-1, routing.experts_LTK, 1.0)
    return chosen_LTE.argsort(-1)[..., :2].transpose(0, 1)


def test_a_dense_model_has_no_routing(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama")
    assert router_rule(model) is None
    assert observe(model, TOKENS, None, lambda: 7) == (7, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_router_is_found_or_missed_aloud(tiny_model: Callable[..., PreTrainedModel], family: str) -> None:
    model = tiny_model(family)
    routers = routers_of(model)
    assert routers == [module for module in model.modules() if type(module).__name__.endswith("Router")] != []
    layer = next(layer for layer in model.get_decoder().layers if routers[0] in layer.modules())
    layer.mlp.router = layer.mlp._modules.pop("gate")
    with pytest.raises(UserError, match=f"own called gate, got {type(model).__name__} without"):
        observe(model, TOKENS, None, lambda: 7)


def test_a_gate_of_other_code_is_no_router_that_we_know(tiny_model: Callable[..., PreTrainedModel]) -> None:
    """Remote code's gates give other tuples: their second tensor would be read as weights."""
    model = tiny_model("deepseek_v3")
    layer = next(layer for layer in model.get_decoder().layers if routers_of(model)[0] in layer.modules())
    layer.mlp.gate = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="a router of transformers' own called gate"):
        routers_of(model)


def test_a_mixture_of_dense_layers_alone_has_no_routing(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("deepseek_v3", first_k_dense_replace=4)
    assert observe(model, TOKENS, None, lambda: 7) == (7, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_padded_and_alone_routers_do_the_same(moe: Callable[[str], PreTrainedModel], family: str) -> None:
    model = moe(family)
    _, packed = seen(model)
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    assert not packs(model)
    _, padded = seen(model)
    assert packed.experts_LTK.shape == padded.experts_LTK.shape == (len(routers_of(model)), 10, 2)
    for one, other in zip(packed.logits_TE, padded.logits_TE, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for index, sequence in zip(token_indices(TOKENS), SEQUENCES, strict=True):
        tokens = pack([sequence], torch.device("cpu"))
        _, alone = observe(model, tokens, None, partial(target_logprobs, model, tokens))
        assert alone is not None
        assert torch.equal(alone.experts_LTK.sort(-1).values, packed.experts_LTK[:, index].sort(-1).values)
    model.set_attn_implementation(own)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_routers_choose_what_is_replayed(moe: Callable[[str], PreTrainedModel], family: str, packed: bool) -> None:
    model = moe(family)
    if not packed:
        model.set_attn_implementation("eager")
    plain_N, routing = seen(model)
    again_N, again = seen(model, routing.experts_LTK.transpose(0, 1))
    torch.testing.assert_close(again_N, plain_N)
    other_N, other = seen(model, others(routing))
    assert (other_N - plain_N).abs().max() > 1e-3
    assert torch.equal(other.experts_LTK[0], routing.experts_LTK[0])  # what the first would choose by itself
    torch.testing.assert_close(seen(model)[0], plain_N)  # and nothing stays
    assert torch.equal(again.experts_LTK, routing.experts_LTK)
    other_N.sum().backward()
    assert all(router.weight.grad.abs().sum() > 0 for router in routers_of(model))


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_recomputed_layers_are_counted_once_and_replay_too(moe: Callable[[str], PreTrainedModel], family: str) -> None:
    def gradients(model: nn.Module, replayed_TLK: Tensor) -> list[Tensor]:
        model.zero_grad()
        logprobs_N, routing = seen(model, replayed_TLK)
        sum(logits_TE.square().sum() for logits_TE in routing.logits_TE).backward(retain_graph=True)
        logprobs_N.sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model = moe(family)
    replayed_TLK = others(seen(model)[1])
    kept = gradients(model, replayed_TLK)
    recompute_layers(model)
    passes: list[int] = []
    handle = routers_of(model)[0].register_forward_hook(lambda *_: passes.append(1))
    recomputed = gradients(model, replayed_TLK)
    handle.remove()
    assert len(passes) >= 2  # it did run again
    for one, other in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(one, other)


def test_routes_are_packed_as_their_tokens_are(moe: Callable[[str], PreTrainedModel]) -> None:
    _, routing = seen(moe("qwen3_moe"))
    experts_TLK = routing.experts_LTK.transpose(0, 1)
    routes = [Routes.of(experts_TLK[index]) for index in token_indices(TOKENS)]
    packed_TLK = packed_routes(routes, TOKENS)
    assert packed_TLK is not None
    assert torch.equal(packed_TLK, experts_TLK)
    assert packed_routes([*routes[:2], None], TOKENS) is None
    assert routes[0] == Routes.of(routes[0].tensor())
    assert routes[0] != routes[1]
