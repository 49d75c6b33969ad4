"""Routing by worked numbers, and by what transformers' routers give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from grpo.batch import pack
from grpo.experts.observe import router_rule, routers_of
from grpo.experts.routing import (
    auxiliary_balance,
    expert_load,
    gate_weights,
    max_violation,
    probabilities,
    relative_entropy,
    router_scores,
    segments_of,
    sequence_balance,
    stepped_bias,
)
from grpo.families import Router
from grpo.types import TokenSequence

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]
CPU = torch.device("cpu")


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- worked numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
def test_transformers_router_and_our_weights_are_deepseek_v3s(biased: bool) -> None:
    vector = GOLDEN["moe.v3_gate"]
    options, expected = vector["options"], vector["expected"]
    logits_E = torch.tensor(vector["inputs"]["router_logits"])
    config = DeepseekV3Config(
        hidden_size=1,
        n_routed_experts=8,
        num_experts_per_tok=options["top_k"],
        n_group=options["n_group"],
        topk_group=options["topk_group"],
        norm_topk_prob=options["norm_topk_prob"],
        routed_scaling_factor=options["routed_scaling_factor"],
    )
    gate = DeepseekV3TopkRouter(config)
    with torch.no_grad():
        gate.weight.copy_(logits_E[:, None])
        gate.e_score_correction_bias.copy_(torch.tensor(vector["inputs"]["e_score_correction_bias"]) * biased)
        logits_TE, weights_TK, experts_TK = gate(torch.ones(1, 1))
    expected = expected if biased else {**expected, **expected["without_bias"]}
    torch.testing.assert_close(router_scores(logits_TE, "sigmoid")[0], torch.tensor(vector["expected"]["scores"]))
    ours_TK = gate_weights(logits_TE, experts_TK, Router("sigmoid", scale=options["routed_scaling_factor"]))
    assert torch.equal(ours_TK, weights_TK)
    assert dict(zip(experts_TK[0].tolist(), ours_TK[0].tolist(), strict=True)) == pytest.approx(
        dict(zip(expected["selected"], expected["weights"], strict=True)), rel=1e-6
    )


def test_the_bias_moves_against_the_load() -> None:
    vector = GOLDEN["moe.bias_update"]
    load_E = f64(vector["inputs"]["tokens_per_expert"])
    new_E = stepped_bias(torch.tensor(vector["inputs"]["bias"]), load_E, vector["options"]["gamma"])
    torch.testing.assert_close(new_E, torch.tensor(vector["expected"]["bias_new"]))
    assert max_violation(load_E).item() == vector["expected"]["max_vio"]


def test_a_bias_in_bfloat16_moves_in_float32() -> None:
    bias_E = torch.tensor([0.5, 1.0], dtype=torch.bfloat16)
    assert (bias_E + 1e-3).tolist() == bias_E.tolist()  # what would be lost
    new_E = stepped_bias(bias_E, torch.tensor([0.0, 2.0]), 1e-3)
    torch.testing.assert_close(new_E, torch.tensor([0.501, 0.999]))


def test_the_sequence_balance_loss_and_its_gradient() -> None:
    vector = GOLDEN["moe.seq_balance_loss"]
    alpha, top_k = vector["options"]["alpha"], vector["options"]["top_k"]
    logits_TE = f64(vector["inputs"]["router_logits_TxE"]).float().requires_grad_()
    within = segments_of(pack([TokenSequence((1, 2), (3, 4))], CPU))  # three tokens are computed
    loss = alpha * sequence_balance(logits_TE, top_k, "sigmoid", within).sum()
    loss.backward()
    assert loss.item() == pytest.approx(vector["expected"]["loss"], rel=1e-5)
    torch.testing.assert_close(
        logits_TE.grad, torch.tensor(vector["expected"]["grad_router_logits"]), atol=1e-9, rtol=1e-4
    )
    torch.testing.assert_close(
        probabilities(logits_TE, "sigmoid").mean(0), torch.tensor(vector["expected"]["P"]), atol=1e-6, rtol=1e-5
    )


def test_replayed_experts_are_weighed_by_the_learners_own_scores() -> None:
    vector = GOLDEN["moe.routing_replay_R3"]
    logits_TE = f64([vector["inputs"]["router_logits_train"]]).requires_grad_()
    chosen_TK = torch.tensor([vector["inputs"]["replayed_ids"]])
    weights_TK = gate_weights(logits_TE, chosen_TK, Router("sigmoid", scale=vector["options"]["scale"]))
    assert weights_TK[0].tolist() == pytest.approx(vector["expected"]["weights"], rel=1e-9)
    weights_TK[0, 0].backward()
    # d(scale s0 / (s0 + s3)) / d logit0 = scale s3 s0 (1 - s0) / (s0 + s3)^2, and the router's experts alone have one
    s0, s3 = logits_TE.detach().sigmoid()[0, [0, 3]].tolist()
    assert logits_TE.grad[0, 0].item() == pytest.approx(2.5 * s3 * s0 * (1 - s0) / (s0 + s3) ** 2)
    assert logits_TE.grad[0].nonzero()[:, 0].tolist() == [0, 3]


# --- transformers' own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "deepseek_v3"])
def test_weights_of_the_chosen_experts_are_transformers_to_the_bit(
    tiny_model: Callable[..., PreTrainedModel], family: str, dtype: torch.dtype
) -> None:
    model = tiny_model(family)
    rule, routers = router_rule(model), routers_of(model)
    assert rule is not None
    assert len(routers) == (1 if family.startswith("deepseek") else 2)
    for router in routers:
        nn.init.normal_(router.weight)
        hidden = torch.randn(50, model.config.hidden_size)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            logits_TE, weights_TK, experts_TK = router(hidden)
            assert torch.equal(gate_weights(logits_TE, experts_TK, rule).to(weights_TK.dtype), weights_TK)


def test_of_one_router_the_auxiliary_loss_is_transformers() -> None:
    logits_TE = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theirs = load_balancing_loss_func((logits_TE,), num_experts=8, top_k=2)
    load_E = expert_load(logits_TE.topk(2).indices, torch.ones(40), 8)
    probabilities_TE = probabilities(logits_TE, "softmax")
    parts = [auxiliary_balance(p, torch.ones(len(p)), load_E, 40.0) for p in probabilities_TE.split([30, 10])]
    ours = parts[0] + parts[1]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    grads = [torch.autograd.grad(loss, logits_TE)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads)


# --- laws -------------------------------------------------------------------------------------------------------------


def test_an_even_load_costs_one_and_a_shared_prompt_counts_for_each_completion() -> None:
    """Prompt 1 2 with completions 3 4 and 5, prompt 6 with 7 8: five tokens, of which two lie in two sequences."""
    sequences = [TokenSequence((1, 2), (3, 4)), TokenSequence((1, 2), (5,)), TokenSequence((6,), (7, 8))]
    within = segments_of(pack(sequences, CPU))
    assert within.weight_T().tolist() == [2, 2, 1, 1, 1]
    assert within.sums(torch.arange(5.0)[:, None])[:, 0].tolist() == [0 + 1 + 2, 0 + 1, 3 + 4]
    load_E = expert_load(torch.tensor([[0, 1], [0, 2], [0, 1], [2, 1], [2, 0]]), within.weight_T(), 4)
    assert load_E.tolist() == [6, 4, 4, 0]
    apart = [sequence_balance(torch.zeros(2, 2), 1, "sigmoid", segments_of(pack([s], CPU))) for s in sequences[1:]]
    assert torch.cat(apart).tolist() == pytest.approx([1, 1])  # two experts of equal scores, one always chosen
    even_TE = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0]])
    one = segments_of(pack([TokenSequence((1, 2), (3, 4, 5))], CPU))
    assert sequence_balance(even_TE, 1, "softmax", one).item() == pytest.approx(1)
    assert sequence_balance(even_TE[:1].expand(4, 4), 1, "softmax", one).item() == pytest.approx(4, rel=1e-2)


def test_entropy_is_a_share_of_the_largest() -> None:
    logits_TE = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -99.0, -99.0], [99.0, -99.0, -99.0, -99.0]])
    assert relative_entropy(logits_TE, "softmax").tolist() == pytest.approx([1, 0.5, 0])
