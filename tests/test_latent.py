"""The factorisation of attention: what it must leave as it is, and the worked vectors of latent attention."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    apply_rotary_pos_emb_interleave,
    eager_attention_forward,
)

from grpo.convert.calibrate import by_distance
from grpo.convert.latent import (
    Attention,
    Latent,
    Moments,
    Sizes,
    factorise,
    interleaved,
    latent_weights,
    mean_turn,
    normalised,
    paired,
    steady_latent,
    unpaired,
    up_projection,
)
from grpo.convert.to_mla import cached_values
from grpo.kernels.packed_attention import packed_attention

VECTORS = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["vectors"]
HIDDEN, HEADS, SIZE = 24, 4, 8
FREQUENCIES_F = 100.0 ** -(torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(key_heads: int) -> Attention:
    query, output = random(HEADS, SIZE, HIDDEN, seed=1), random(HIDDEN, HEADS, SIZE, seed=2)
    return Attention(query, random(key_heads, SIZE, HIDDEN, seed=3), random(key_heads, SIZE, HIDDEN, seed=4), output)


def seen_at(*distances: float) -> Moments:
    """Moments of correlated inputs; the attention of each head at distances 0, 1, ..."""
    moments = [rows.mT @ rows / 200 for rows in (random(200, HIDDEN, seed=s) @ random(HIDDEN, HIDDEN) for s in (5, 6))]
    return Moments(*moments, random(HIDDEN, seed=7), torch.tensor([distances] * HEADS, dtype=torch.float64))


def logits_before(layer: Attention, query_D: Tensor, key_D: Tensor, distance: int) -> Tensor:
    """Of each head: Re(q conj(k) e^(i frequency distance)), which is what Llama's rotary embedding makes of them."""
    query_HF = paired(layer.query_HCD) @ query_D.to(torch.complex128)
    key_HF = (paired(layer.key_KCD) @ key_D.to(torch.complex128)).repeat_interleave(layer.group, 0)
    return (query_HF * key_HF.conj() * torch.exp(1j * FREQUENCIES_F * distance)).real.sum(1)


def logits_after(latent: Latent, query_D: Tensor, key_D: Tensor, distance: int, frequencies_G: Tensor) -> Tensor:
    """The same from the factorisation, with latents that lose nothing."""
    rest_HC = (latent.rest_KCD @ key_D).repeat_interleave(HEADS // len(latent.rest_KCD), 0)
    still_H = ((latent.query_HND @ query_D) * (latent.chosen_HNC @ rest_HC[..., None])[..., 0]).sum(1)
    turned = torch.exp(1j * frequencies_G * distance)
    query_HG = torch.view_as_complex((latent.query_rope_HPD @ query_D).unflatten(1, (-1, 2)))
    key_G = torch.view_as_complex((latent.rope_key_PD @ key_D).unflatten(0, (-1, 2)))
    return still_H + (query_HG * key_G.conj() * turned).real.sum(1)


# --- what must not change ---------------------------------------------------------------------------------------------


def test_one_key_head_turns_as_before() -> None:
    """Nothing is left of it that does not turn, so logits are the same at every distance."""
    layer = layer_of(1)
    latent = factorise(layer, seen_at(1, 1, 1), Sizes(16, SIZE, SIZE), FREQUENCIES_F)
    assert latent.rest_KCD.abs().max() < 1e-9
    for distance in (0, 1, 7):
        query_D, key_D = random(HIDDEN, seed=distance + 10), random(HIDDEN, seed=distance + 20)
        before = logits_before(layer, query_D, key_D, distance)
        torch.testing.assert_close(logits_after(latent, query_D, key_D, distance, FREQUENCIES_F), before)


@pytest.mark.parametrize("rope", [SIZE, SIZE // 2])
def test_attention_that_was_seen_at_one_distance_is_kept_there(rope: int) -> None:
    """What no longer turns has the turn of that distance built in; folded frequencies fit at distance 0."""
    layer, place = layer_of(2), 2 if rope == SIZE else 0
    latent = factorise(layer, seen_at(*(d == place for d in range(4))), Sizes(32, rope, SIZE), FREQUENCIES_F)
    query_D, key_D = random(HIDDEN, seed=11), random(HIDDEN, seed=12)
    kept_G = FREQUENCIES_F[:: SIZE // rope]
    before = logits_before(layer, query_D, key_D, place)
    torch.testing.assert_close(logits_after(latent, query_D, key_D, place, kept_G), before)


def test_heads_that_are_multiples_of_one_need_no_more_than_the_rotary_key() -> None:
    """With a turn between them: the second head is the first one times 2 e^i, at every frequency."""
    layer = layer_of(2)
    first_FD = paired(layer.key_KCD)[:1]
    keys = unpaired(torch.cat([first_FD, 2 * torch.exp(torch.tensor(1j)) * first_FD]))
    latent = factorise(Attention(layer.query_HCD, keys, *vars_of(layer)), seen_at(1), Sizes(32, 8, 8), FREQUENCIES_F)
    assert latent.rest_KCD.abs().max() < 1e-9


def vars_of(layer: Attention) -> tuple[Tensor, Tensor]:
    return layer.value_KCD, layer.output_DHC


def test_directions_that_queries_do_not_use_cost_nothing() -> None:
    """Queries of rank 3 a head leave a third of the head's directions idle, and more."""
    layer = layer_of(2)
    narrow = Attention(random(HEADS, SIZE, 3) @ random(HEADS, 3, HIDDEN, seed=1), layer.key_KCD, *vars_of(layer))
    latent = factorise(narrow, seen_at(1), Sizes(32, SIZE, 3), FREQUENCIES_F)
    assert latent.query_HND.shape == (HEADS, 3, HIDDEN)
    query_D, key_D = random(HIDDEN, seed=11), random(HIDDEN, seed=12)
    before = logits_before(narrow, query_D, key_D, 0)
    after = logits_after(latent, query_D, key_D, 0, FREQUENCIES_F)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-2)


def test_latents_have_mean_square_one_and_in_full_number_lose_nothing() -> None:
    seen, key_heads = seen_at(1, 1), 1
    full = 2 * key_heads * SIZE - SIZE  # one key head leaves no rest, so values are all
    latent = factorise(layer_of(key_heads), seen, Sizes(full + 1, SIZE, SIZE), FREQUENCIES_F)
    squared_RR = latent.down_RD @ seen.attended_DD @ latent.down_RD.mT
    torch.testing.assert_close(squared_RR[1:, 1:], torch.eye(full, dtype=torch.float64))
    up_HVR = up_projection(latent, seen.attended_DD @ latent.down_RD.mT, squared_RR)
    values_HCD = latent.value_KCD.expand(HEADS, -1, -1)
    torch.testing.assert_close(up_HVR[:, SIZE:] @ latent.down_RD, values_HCD)


def test_what_is_within_rounding_of_a_latent_is_not_believed() -> None:
    """Latent 1 gives the one value 1. Latent 2, of mean square 1e-14, would give another 0.1 of it."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    latent = Latent(one, one, one[0], torch.ones(2, 1, dtype=torch.float64), one, one, one)
    squared_RR = torch.tensor([[1, 0], [0, 1e-14]], dtype=torch.float64)
    up_HVR = up_projection(latent, torch.tensor([[1, 1e-15]], dtype=torch.float64), squared_RR)
    torch.testing.assert_close(up_HVR[0, 1], torch.tensor([1, 0], dtype=torch.float64), rtol=0, atol=0.01)


def test_more_rank_never_loses_more() -> None:
    layer, seen = layer_of(2), seen_at(1, 1, 1)
    errors = []
    for rank in (4, 8, 16, 24):
        latent = factorise(layer, seen, Sizes(rank, SIZE, SIZE), FREQUENCIES_F)
        crossed_DR = seen.attended_DD @ latent.down_RD.mT
        up_HVR = up_projection(latent, crossed_DR, latent.down_RD @ crossed_DR)
        gap = up_HVR[:, SIZE:] @ latent.down_RD - latent.value_KCD.repeat_interleave(2, 0)
        errors.append((gap @ seen.attended_DD @ gap.mT).diagonal(dim1=1, dim2=2).sum().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


# --- worked by hand ---------------------------------------------------------------------------------------------------


def test_the_mean_turn() -> None:
    """All at distance 2 of frequency 0.5: e^i. Half at 0 and half at 2 of frequency pi/2: (1 + -1) / 2 = 0."""
    turns = mean_turn(torch.tensor([[0.0, 0, 3], [1, 0, 1]]).double(), torch.tensor([0.5, torch.pi / 2]).double())
    torch.testing.assert_close(turns[0, 0], torch.exp(torch.tensor(1j).to(torch.complex128)))
    assert turns[1, 1].abs() < 1e-6


def test_sums_by_distance() -> None:
    attention_HTT = torch.tensor([[[5.0, 0, 0], [7, 9, 0], [1, 2, 3]]])
    assert by_distance(attention_HTT).tolist() == [[17.0, 9.0, 1.0]]


def test_latents_are_divided_by_their_root_mean_square() -> None:
    """(3, 4) has mean square 12.5."""
    latent = normalised(torch.tensor([[3.0, 4.0]]), torch.eye(2), epsilon=0.0)
    torch.testing.assert_close(latent, torch.tensor([[3.0, 4.0]]) / 12.5**0.5)


def test_the_steady_latent_finds_what_is_constant() -> None:
    """An input whose last number is always 2: the latent is the same for all, of mean square 16 times the others'."""
    inputs_TD = torch.cat([random(50, HIDDEN - 1), torch.full((50, 1), 2.0, dtype=torch.float64)], 1)
    moments_DD = inputs_TD.mT @ inputs_TD / 50
    seen = Moments(moments_DD, moments_DD, inputs_TD.mean(0), torch.ones(HEADS, 1, dtype=torch.float64))
    steady_T = inputs_TD @ steady_latent(seen, others=9)
    torch.testing.assert_close(steady_T, torch.full((50,), 12.0, dtype=torch.float64))


def test_the_rotary_layout_is_deepseeks() -> None:
    """Complex rows, turned, are what transformers' interleaved rotation makes of them, up to the order of numbers."""
    rows_HGD = torch.complex(random(1, 4, 1), random(1, 4, 1, seed=1))
    angle_G = FREQUENCIES_F * 5
    flat = interleaved(rows_HGD)[None, :, None, :, 0].float()
    angles = torch.cat([angle_G, angle_G])[None, None].float()
    turned, _ = apply_rotary_pos_emb_interleave(flat, flat, angles.cos(), angles.sin())
    expected = rows_HGD[0, :, 0] * torch.exp(1j * angle_G)
    torch.testing.assert_close(turned.flatten(), torch.cat([expected.real, expected.imag]).float())


def test_queries_make_up_for_the_other_scale_of_the_softmax() -> None:
    """Heads of 8 become 8 + 8: logits are divided by 4 in place of the root of 8, so queries grow by the root of 2."""
    latent = factorise(layer_of(1), seen_at(1), Sizes(8, SIZE, SIZE), FREQUENCIES_F)
    weights = latent_weights(latent, torch.zeros(HEADS, 2 * SIZE, 8, dtype=torch.float64), SIZE)
    own_HQD = torch.cat([latent.query_HND, latent.query_rope_HPD], 1)
    torch.testing.assert_close(weights["q_proj"], 2**0.5 * own_HQD.flatten(0, 1))
    assert weights["kv_a_proj_with_mqa"].shape == (8 + SIZE, HIDDEN)


def test_the_cache_of_deepseek_v2_and_v3() -> None:
    vector = VECTORS["mla.kv_cache"]
    for name, given in vector["inputs"].items():
        config = DeepseekV3Config(
            num_hidden_layers=given["layers"],
            kv_lora_rank=given["d_c"],
            qk_rope_head_dim=given["d_R"],
            num_attention_heads=given["n_h"],
        )
        assert cached_values(config) == vector["expected"][f"{name}_mla"]
    plain: Any = type("Plain", (), {})()
    plain.num_hidden_layers, plain.num_key_value_heads, plain.head_dim = 61, 128, 128
    assert cached_values(plain) == vector["expected"]["V3_mha"]
    assert vector["expected"]["V3_mla"] / cached_values(plain) == vector["expected"]["ratio"]


@pytest.mark.parametrize("way", ["transformers", "packed"])
def test_absorption(way: str) -> None:
    """Keys and values expanded from the latents, as the learner computes them, and absorbed into query and output."""
    vector = VECTORS["mla.absorption"]
    given = {name: torch.tensor(value, dtype=torch.float64) for name, value in vector["inputs"].items()}
    expected = {name: torch.tensor(value, dtype=torch.float64) for name, value in vector["expected"].items()}
    absorbed_R = given["W_UK"].mT @ given["q_nope"]
    torch.testing.assert_close(absorbed_R, expected["absorbed_q"])
    logits_T = (given["c_kv"] @ absorbed_R + given["k_rope"] @ given["q_rope"]) / 2
    torch.testing.assert_close(logits_T, expected["logits"])
    torch.testing.assert_close(given["W_UV"] @ (logits_T.softmax(0) @ given["c_kv"]), expected["out"])

    config = DeepseekV3Config(
        hidden_size=4,
        num_attention_heads=1,
        num_key_value_heads=1,
        kv_lora_rank=2,
        q_lora_rank=None,
        qk_rope_head_dim=2,
        qk_nope_head_dim=2,
        v_head_dim=2,
    )
    attention: Any = DeepseekV3Attention(config, 0).double()
    attention.kv_b_proj.weight.data = torch.cat([given["W_UK"], given["W_UV"]])
    key, value = attention.expand_kv(given["c_kv"][None, None], given["k_rope"][None, None])
    query = torch.cat([given["q_nope"], given["q_rope"]])[None, None, None]
    call = eager_attention_forward if way == "transformers" else packed_attention
    assert attention.scaling == 0.5
    output, _ = call(attention, query, key, value, None, scaling=attention.scaling)
    torch.testing.assert_close(output.flatten().detach(), expected["out"])
