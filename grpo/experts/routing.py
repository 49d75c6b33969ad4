"""The mathematics of routing and of an even load.

Axes: T packed tokens, E experts of a layer, K chosen for a token, S sequences, G segments (a prompt or a completion).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grpo.families import Router
from grpo.kernels.rows import add_up
from grpo.types import PackedTokens


def router_scores(logits_TE: Tensor, kind: Literal["sigmoid", "softmax"]) -> Tensor:
    """The scores of experts in the precision of transformers' routers."""
    return logits_TE.sigmoid() if kind == "sigmoid" else logits_TE.softmax(-1, dtype=torch.float32)


def gate_weights(logits_TE: Tensor, experts_TK: Tensor, router: Router) -> Tensor:
    """What the given experts of each token count, (T, K): scores alone, not the bias that helped to choose them."""
    weights_TK = router_scores(logits_TE, router.scores).gather(-1, experts_TK)
    if router.normalise:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    return weights_TK * router.scale


def stepped_bias(bias_E: Tensor, load_E: Tensor, rate: float) -> Tensor:
    """The bias after an update, float32: up for experts below the mean load, down above (arXiv 2408.15664, alg. 1)."""
    load_E = load_E.to(bias_E.device)
    return bias_E.float() + rate * (load_E.mean() - load_E).sign().float()


def max_violation(load_E: Tensor) -> Tensor:
    """MaxVio: by which share of the mean load the busiest expert is above it (arXiv 2408.15664, eq. 4).

    >>> max_violation(torch.tensor([6.0, 2.0, 0.0, 4.0])).item()
    1.0
    """
    return load_E.amax(-1) / load_E.mean(-1) - 1


def probabilities(logits_TE: Tensor, kind: Literal["sigmoid", "softmax"]) -> Tensor:
    """Scores that add up to 1, in float32."""
    scores_TE = router_scores(logits_TE.float(), kind)
    return scores_TE / scores_TE.sum(-1, keepdim=True)


def relative_entropy(logits_TE: Tensor, kind: Literal["sigmoid", "softmax"]) -> Tensor:
    """The entropy of each token's probabilities (T,) as a share of ln E: 1 is no preference at all."""
    return torch.special.entr(probabilities(logits_TE, kind)).sum(-1) / math.log(max(2, logits_TE.shape[-1]))


# --- sequences --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segments:
    """Which packed tokens make up a sequence: each lies in one segment, and a sequence has its prompt's and its own.

    A shared prompt so counts once for every completion behind it, whether or not a micro-batch holds them all.
    """

    segment_T: Tensor
    member_SG: Tensor

    def weight_T(self) -> Tensor:
        """The number of sequences that a token lies in."""
        return self.member_SG.sum(0)[self.segment_T]

    def sums(self, values_TE: Tensor) -> Tensor:
        """Sums over each sequence's tokens (S, E)."""
        return self.member_SG.to(values_TE.dtype) @ add_up(values_TE, self.segment_T, self.member_SG.shape[1])


def segments_of(tokens: PackedTokens) -> Segments:
    """The segments of packed tokens, groups in order, each prompt before its completions."""
    device = tokens.token_ids_T.device
    lengths = [length for group in tokens.groups for length in (group.prompt, *group.completions)]
    member_SG = torch.zeros(sum(len(g.completions) for g in tokens.groups), len(lengths), device=device)
    sequence = segment = 0
    for group in tokens.groups:
        for number in range(len(group.completions)):
            member_SG[sequence, [segment, segment + 1 + number]] = 1
            sequence += 1
        segment += 1 + len(group.completions)
    ids = torch.arange(len(lengths), device=device)
    return Segments(ids.repeat_interleave(torch.tensor(lengths, device=device)), member_SG)


# --- balance ----------------------------------------------------------------------------------------------------------


def expert_load(experts_TK: Tensor, weight_T: Tensor, experts: int) -> Tensor:
    """How many tokens each expert gets (E,), in float64, in which whole numbers add up exactly."""
    weights_TK = weight_T.double()[:, None].expand(experts_TK.shape)
    return torch.bincount(experts_TK.flatten(), weights_TK.flatten(), experts)


def sequence_balance(logits_TE: Tensor, top_k: int, kind: Literal["sigmoid", "softmax"], within: Segments) -> Tensor:
    """DeepSeek-V3's balance loss of each sequence (S,), 1 where it is even (arXiv 2412.19437, eq. 17 to 20).

    sum_i f_i P_i, with f_i the share of tokens that have expert i among their K highest scores, without the bias, times
    E / K, and P_i the mean of its share in their scores. Only P has a gradient.
    """
    probabilities_TE = probabilities(logits_TE, kind)
    chosen_TE = torch.zeros_like(probabilities_TE).scatter(-1, probabilities_TE.topk(top_k).indices, 1.0)
    length_S1 = within.sums(torch.ones_like(probabilities_TE[:, :1]))
    f_SE = within.sums(chosen_TE.detach()) * (logits_TE.shape[-1] / top_k) / length_S1
    return (f_SE * within.sums(probabilities_TE) / length_S1).sum(-1)


def auxiliary_balance(probabilities_TE: Tensor, weight_T: Tensor, load_E: Tensor, total: float) -> Tensor:
    """Switch's loss E sum_i f_i P_i, K where it is even (arXiv 2101.03961, eq. 4 to 6), of the tokens at hand.

    f_i = load_i / total and the mean P_i are over the `total` tokens of a whole batch, so that the shares of its parts
    add up to the loss of the batch.
    """
    f_E = (load_E / total).to(probabilities_TE)
    return probabilities_TE.shape[-1] * ((weight_T[:, None] * probabilities_TE).sum(0) / total * f_E).sum()
