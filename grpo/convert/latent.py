"""Grouped keys and values as latents: the factorisation of one layer, from its weights and what it was seen doing.

A key's rotary pair is one complex number, which position turns. DeepSeek's attention has one rotary key for all
heads, so each frequency's pairs of all key heads are written as multiples of one pair that still turns, found by
principal components with complex weights: TransMLA's RoRoPE (arXiv 2502.07864) with a phase for every head and, with
fewer rotary dimensions than a head has, its FreqFold, on MHA2MLA's uniform choice of frequencies (arXiv 2502.14837).
What is left of a key no longer turns: of a turn by the distance of query and key, its mean over the attention that was
seen is kept. The rest of all keys and all values goes through one latent by a joint singular value decomposition, in
which errors weigh as much as they move a head's output (activation-aware SVD).

DeepSeek's norm divides a token's latents by their root mean square, and with that would take its size away, which keys
and values need. So one latent is spent on being as constant as a linear function of the input can be, and is larger
than all others together: what the norm divides by is then about the same for all tokens.

Axes: D hidden units, H query heads, K key heads, C numbers of a head, F = C / 2 frequencies, G rotary frequencies kept,
M = F / G frequencies folded into one, N numbers of a head without rotation, R rank, L distances.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-6
"""Eigenvalues below this share of the largest are rounding."""

STEADY = 16
"""The mean square of the steady latent over that of all others together."""


@dataclass(frozen=True)
class Attention:
    """Weights of a grouped-query layer, in float64: query (H, C, D), key and value (K, C, D), output (D, H, C)."""

    query_HCD: Tensor
    key_KCD: Tensor
    value_KCD: Tensor
    output_DHC: Tensor

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return len(self.query_HCD) // len(self.key_KCD)


@dataclass(frozen=True)
class Moments:
    """What a layer was seen doing.

    Second moments of its input, for queries and weighed by the attention that it gets, its mean so weighed, and how
    much attention each head pays at each distance.
    """

    query_DD: Tensor
    attended_DD: Tensor
    mean_D: Tensor
    distance_HL: Tensor


@dataclass(frozen=True)
class Sizes:
    """Of the latent attention: rank, rotary and other numbers of a query head."""

    rank: int
    rope: int
    nope: int


@dataclass(frozen=True)
class Latent:
    """A layer's factorisation before its latents are normalised.

    Queries are whole; `down_RD` makes latents, `rope_key_PD` the rotary key. Latents are to give `rest_KCD`, what is
    left of the keys, of which head h uses `chosen_HNC`, and the values.
    """

    query_HND: Tensor
    query_rope_HPD: Tensor
    rope_key_PD: Tensor
    down_RD: Tensor
    rest_KCD: Tensor
    chosen_HNC: Tensor
    value_KCD: Tensor


def factorise(layer: Attention, seen: Moments, sizes: Sizes, frequencies_F: Tensor) -> Latent:
    """Find the rotary key, the queries and the latents of a layer."""
    query_HFD, key_KFD = paired(layer.query_HCD), paired(layer.key_KCD)
    energy_KF = _energy(query_HFD, seen.query_DD).unflatten(0, (-1, layer.group)).sum(1)
    rope_GD, share_KF = rotary_key(key_KFD, energy_KF, seen.attended_DD, sizes.rope // 2)
    folded = key_KFD.shape[1] // len(rope_GD)
    rest_KCD = unpaired(key_KFD - share_KF[..., None] * rope_GD.repeat_interleave(folded, 0))
    turning_HFD = query_HFD * share_KF.conj().repeat_interleave(layer.group, 0)[..., None]
    still_HCD = unpaired(query_HFD * mean_turn(seen.distance_HL, frequencies_F)[..., None])
    chosen_HNC, query_HND = _without_idle(still_HCD, rest_KCD, seen, sizes.nope)
    return Latent(
        query_HND,
        interleaved(turning_HFD.unflatten(1, (len(rope_GD), folded)).sum(2)),
        interleaved(rope_GD[None])[0],
        latents(layer, still_HCD, rest_KCD, seen, sizes.rank),
        rest_KCD,
        chosen_HNC,
        layer.value_KCD,
    )


# --- rotary pairs -----------------------------------------------------------------------------------------------------


def paired(rows_HCD: Tensor) -> Tensor:
    """Llama's rotary pairs, l and l + C/2, as complex rows (H, F, D)."""
    first, second = rows_HCD.chunk(2, dim=1)
    return torch.complex(first, second)


def unpaired(rows_HFD: Tensor) -> Tensor:
    """The inverse of `paired`."""
    return torch.cat([rows_HFD.real, rows_HFD.imag], dim=1)


def interleaved(rows_HGD: Tensor) -> Tensor:
    """Complex rows as DeepSeek's rotary pairs, 2l and 2l + 1."""
    return torch.stack([rows_HGD.real, rows_HGD.imag], dim=2).flatten(1, 2)


def mean_turn(distance_HL: Tensor, frequencies_F: Tensor) -> Tensor:
    """The mean (H, F) of e^(i frequency distance) over the attention that each head pays."""
    distances_L = torch.arange(distance_HL.shape[1], dtype=torch.float64)
    turns_LF = torch.exp(1j * distances_L[:, None] * frequencies_F)
    return (distance_HL / distance_HL.sum(1, keepdim=True)).to(turns_LF.dtype) @ turns_LF


def rotary_key(key_KFD: Tensor, energy_KF: Tensor, attended_DD: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The pairs (G, D) that stand for all heads' pairs of their frequencies, and the share (K, F) of it in each.

    A pair weighs as much as the queries that meet it.
    """
    heads, frequencies, hidden = key_KFD.shape
    key_GPD = key_KFD.view(heads, kept, -1, hidden).transpose(0, 1).reshape(kept, -1, hidden)
    weight_GP = energy_KF.view(heads, kept, -1).transpose(0, 1).reshape(kept, -1)
    weight_GP = weight_GP.clamp(min=SMALLEST * weight_GP.max().item()).sqrt()
    weighted_GPD = weight_GP[..., None] * key_GPD
    gram_GPP = weighted_GPD @ attended_DD.to(key_GPD.dtype) @ weighted_GPD.mH
    first_GP = torch.linalg.eigh(gram_GPP).eigenvectors[..., -1]
    share_GP = first_GP / weight_GP
    size_G1 = share_GP.abs().square().mean(1, keepdim=True).sqrt()
    rope_GD = (first_GP.conj()[:, None] @ weighted_GPD)[:, 0] * size_G1
    share_KF = (share_GP / size_G1).view(kept, heads, -1).transpose(0, 1).reshape(heads, frequencies)
    return rope_GD, share_KF


def _energy(rows_HFD: Tensor, moments_DD: Tensor) -> Tensor:
    """Mean squares (H, F) of what rows make of the input."""
    return torch.einsum("hfd,de,hfe->hf", rows_HFD, moments_DD.to(rows_HFD.dtype), rows_HFD.conj()).real


# --- what does not turn -----------------------------------------------------------------------------------------------


def _without_idle(still_HCD: Tensor, rest_KCD: Tensor, seen: Moments, kept: int) -> tuple[Tensor, Tensor]:
    """For each head the `kept` directions in which query and key differ most in what they add to the logits.

    Returns what makes them of a key (H, N, C) and of the input as a query (H, N, D).
    """
    heads, size, _ = still_HCD.shape
    if kept == size:
        return torch.eye(size, dtype=torch.float64).expand(heads, -1, -1), still_HCD
    query_HCC = still_HCD @ seen.query_DD @ still_HCD.mT
    rest_HCD = rest_KCD.repeat_interleave(heads // len(rest_KCD), 0)
    root_HCC, inverse_HCC = _roots(query_HCC)
    product_HCC = root_HCC @ (rest_HCD @ seen.attended_DD @ rest_HCD.mT) @ root_HCC
    directions_HNC = torch.linalg.eigh(product_HCC).eigenvectors[..., -kept:].mT
    size_H11 = query_HCC.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].sqrt()  # so that queries keep their size
    return directions_HNC @ root_HCC / size_H11, directions_HNC @ inverse_HCC @ still_HCD * size_H11


def latents(layer: Attention, still_HCD: Tensor, rest_KCD: Tensor, seen: Moments, rank: int) -> Tensor:
    """What makes the latents (R, D) of the input: the steady one, then those that tell most, each of mean square 1."""
    rest_weight_KCC, value_weight_KCC = _importance(layer, still_HCD, seen)
    weighed = (rest_weight_KCC, rest_KCD), (value_weight_KCC, layer.value_KCD)
    targets_TD = torch.cat([(_roots(weight_KCC)[0] @ rows_KCD).flatten(0, 1) for weight_KCC, rows_KCD in weighed])
    values_T, vectors_TT = torch.linalg.eigh(targets_TD @ seen.attended_DD @ targets_TD.mT)
    strongest_R = values_T[1 - rank :].clamp(min=SMALLEST**2 * values_T[-1].item())
    telling_RD = vectors_TT[:, 1 - rank :].mT @ targets_TD / strongest_R.sqrt()[:, None]
    return torch.cat([steady_latent(seen, rank - 1)[None], telling_RD])


def steady_latent(seen: Moments, others: int) -> Tensor:
    """What makes (D,) of the input a number as constant as can be: least squares, weighed by attention."""
    return _least_squares(seen.attended_DD, seen.mean_D[:, None])[:, 0] * (STEADY * others) ** 0.5


def _importance(layer: Attention, still_HCD: Tensor, seen: Moments) -> tuple[Tensor, Tensor]:
    """How much an error of a key, and one of a value, moves the layer's output: forms (K, C, C) each.

    A logit's error moves the output by about itself times what the head's values are worth there.
    """
    output_HDC = layer.output_DHC.transpose(0, 1)
    worth_HCC = output_HDC.mT @ output_HDC
    value_HCD = layer.value_KCD.repeat_interleave(layer.group, 0)
    worth_H = torch.einsum("hcd,de,hbe,hbc->h", value_HCD, seen.attended_DD, value_HCD, worth_HCC)
    logit_HCC = still_HCD @ seen.query_DD @ still_HCD.mT / still_HCD.shape[1]
    by_key = (-1, layer.group)
    return (logit_HCC * worth_H[:, None, None]).unflatten(0, by_key).sum(1), worth_HCC.unflatten(0, by_key).sum(1)


def _least_squares(moments_XX: Tensor, crossed_XY: Tensor) -> Tensor:
    """The map (X, Y) from X to Y by their moments. What is within rounding of X counts for nothing."""
    ridge_XX = SMALLEST**2 * moments_XX.diagonal().mean() * torch.eye(len(moments_XX), dtype=torch.float64)
    return torch.linalg.solve(moments_XX + ridge_XX, crossed_XY)


def _roots(forms_HCC: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of symmetric forms, and their inverses."""
    values_HC, vectors_HCC = torch.linalg.eigh(forms_HCC)
    roots_HC = values_HC.clamp(min=SMALLEST * values_HC.max().item()).sqrt()
    return (vectors_HCC * roots_HC[:, None]) @ vectors_HCC.mT, (vectors_HCC / roots_HC[:, None]) @ vectors_HCC.mT


# --- the weights of DeepSeek's attention ------------------------------------------------------------------------------


def normalised(hidden_TD: Tensor, down_RD: Tensor, epsilon: float) -> Tensor:
    """The latents (T, R) as DeepSeek's attention has them: each token's divided by their root mean square."""
    latent_TR = hidden_TD @ down_RD.mT
    return latent_TR * torch.rsqrt(latent_TR.square().mean(1, keepdim=True) + epsilon)


def up_projection(latent: Latent, crossed_DR: Tensor, squared_RR: Tensor) -> Tensor:
    """kv_b_proj (H, N + C, R): the least-squares map from normalised latents to what is left of keys, and to values.

    `crossed_DR` and `squared_RR` are the moments of input and latents, and of latents.
    """
    solve_DR = _least_squares(squared_RR, crossed_DR.mT).mT
    rest_KCR, value_KCR = latent.rest_KCD @ solve_DR, latent.value_KCD @ solve_DR
    group = len(latent.chosen_HNC) // len(rest_KCR)
    key_HNR = latent.chosen_HNC @ rest_KCR.repeat_interleave(group, 0)
    return torch.cat([key_HNR, value_KCR.repeat_interleave(group, 0)], dim=1)


def latent_weights(latent: Latent, up_HVR: Tensor, size: int) -> dict[str, Tensor]:
    """The layer's weights by DeepSeek's names. `size` is C: queries make up for the other scale of the softmax."""
    query_HQD = torch.cat([latent.query_HND, latent.query_rope_HPD], dim=1)
    scale = (query_HQD.shape[1] / size) ** 0.5
    return {
        "q_proj": query_HQD.flatten(0, 1) * scale,
        "kv_a_proj_with_mqa": torch.cat([latent.down_RD, latent.rope_key_PD]),
        "kv_b_proj": up_HVR.flatten(0, 1),
        "kv_a_layernorm": torch.ones(len(latent.down_RD), dtype=torch.float64),
    }
