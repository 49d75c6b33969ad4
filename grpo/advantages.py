"""Advantages: how much better a completion did than its siblings. P prompts, G completions of each, B = P*G.

NaN in `rewards_PG` marks a completion that cannot be scored. It takes no part in any statistic and its advantage is
exactly 0. So is every advantage of a group with fewer than two scored completions, or whose rewards are all equal:
such a group says nothing about what to prefer. All sums are float64; results have the dtype of the rewards.
"""

import torch
from torch import Tensor

from grpo.advantage_settings import (
    AdvantageSettings,
    BatchStdAdvantage,
    DrGrpoAdvantage,
    GdpoAdvantage,
    GroupAdvantage,
    ReinforcePlusPlusAdvantage,
    RlooAdvantage,
)

ROUNDING = 64
"""Rewards this many units of rounding apart are equal: sums of parts such as 0.1 + 0.2 and 0.3 differ by one or two."""


def advantages(rewards_PG: Tensor, settings: AdvantageSettings) -> Tensor:
    """Return advantages_PG of the kind that the recipe names; GDPO's of a single reward."""
    match settings:
        case GroupAdvantage():
            return group_normalised(rewards_PG, settings.ddof, settings.epsilon)
        case DrGrpoAdvantage():
            return group_centred(rewards_PG)
        case RlooAdvantage():
            return leave_one_out(rewards_PG)
        case BatchStdAdvantage():
            return batch_normalised(rewards_PG, settings.ddof, settings.epsilon)
        case ReinforcePlusPlusAdvantage():
            return reinforce_pp_baseline(rewards_PG, settings.epsilon)
        case GdpoAdvantage():
            return gdpo(rewards_PG[None], torch.ones(1), settings.ddof, settings.epsilon)


def keep_groups(rewards_PG: Tensor) -> Tensor:
    """Return, for each of P groups, whether its scored rewards differ: DAPO's dynamic sampling keeps those.

    For rewards 0 and 1 it is 0 < #correct < G (arXiv 2503.14476, 3.2).
    """
    missing_PG = rewards_PG.isnan()
    highest_P = rewards_PG.masked_fill(missing_PG, -torch.inf).amax(-1)
    lowest_P = rewards_PG.masked_fill(missing_PG, torch.inf).amin(-1)
    rounding_P = ROUNDING * torch.finfo(rewards_PG.dtype).eps * torch.maximum(highest_P.abs(), lowest_P.abs())
    # With one score the two are equal, with none highest is -inf: neither differs.
    return highest_P - lowest_P > rounding_P


def group_normalised(rewards_PG: Tensor, ddof: int, epsilon: float, lone_as_is: bool = False) -> Tensor:
    """GRPO: (r - group mean) / (group std + epsilon) (arXiv 2402.03300, 4.1.2, which leaves ddof and epsilon open).

    [1, 0, 0, 1] with ddof 0 and epsilon 0 gives [1, -1, -1, 1]. `lone_as_is` is verl's convention for a group with a
    single scored completion, mean 0 and std 1, which gives it r / (1 + epsilon): the raw reward, without a baseline.
    """
    result_PG = _centred(rewards_PG) / (_std(rewards_PG, ddof) + epsilon)
    result_PG = _zero_unless_kept(rewards_PG, result_PG)
    if lone_as_is:
        lone_P1 = (~rewards_PG.isnan()).sum(-1, keepdim=True) == 1
        result_PG = torch.where(lone_P1, rewards_PG.double().nan_to_num() / (1 + epsilon), result_PG)
    return result_PG.to(rewards_PG.dtype)


def group_centred(rewards_PG: Tensor) -> Tensor:
    """Dr. GRPO: r - group mean (arXiv 2503.20783)."""
    return _centred(rewards_PG).to(rewards_PG.dtype)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """RLOO: r - mean of the others, which is (r - mean) n / (n - 1) for n scored completions (arXiv 2402.14740)."""
    scored_P1 = (~rewards_PG.isnan()).sum(-1, keepdim=True)
    return (_centred(rewards_PG) * scored_P1 / (scored_P1 - 1).clamp(min=1)).to(rewards_PG.dtype)


def batch_normalised(rewards_PG: Tensor, ddof: int, epsilon: float) -> Tensor:
    """(r - group mean) / (std of the batch's raw rewards + epsilon) (arXiv 2508.08221; TRL's scale_rewards batch)."""
    result_PG = _centred(rewards_PG) / (_std(rewards_PG.flatten(), ddof) + epsilon)
    return _zero_unless_kept(rewards_PG, result_PG).to(rewards_PG.dtype)


def reinforce_pp_baseline(rewards_PG: Tensor, epsilon: float) -> Tensor:
    """REINFORCE++-baseline: r - group mean, whitened over the batch's scored sequences, ddof 1 (arXiv 2501.03262)."""
    centred_PG = _centred(rewards_PG).masked_fill(rewards_PG.isnan(), torch.nan)
    whitened_PG = _standardised(centred_PG.flatten(), epsilon).view_as(rewards_PG)
    return _zero_unless_kept(rewards_PG, whitened_PG).to(rewards_PG.dtype)


def reinforce_pp_tokens(rewards_B: Tensor, sequence_N: Tensor, epsilon: float = 1e-8) -> Tensor:
    """REINFORCE++ as in verl: every token has its sequence's reward, whitened over tokens, so that length has weight.

    (r - mean) / sqrt(var + epsilon) with ddof 1, undiscounted. Returns advantages_N for N tokens, `sequence_N` of B.
    """
    return _whitened_tokens(rewards_B[sequence_N], epsilon)


def reinforce_pp_baseline_tokens(rewards_PG: Tensor, sequence_N: Tensor, epsilon: float = 1e-8) -> Tensor:
    """REINFORCE++-baseline as in verl: r - group mean, whitened over tokens. `sequence_N` indexes B = P*G."""
    centred_PG = _centred(rewards_PG).masked_fill(rewards_PG.isnan(), torch.nan)
    kept_N = keep_groups(rewards_PG).repeat_interleave(rewards_PG.shape[1])[sequence_N]
    whitened_N = _whitened_tokens(centred_PG.flatten()[sequence_N], epsilon)
    return torch.where(kept_N, whitened_N, 0).to(rewards_PG.dtype)


def process_supervision(
    rewards_K: Tensor, sequence_K: Tensor, end_K: Tensor, lengths_G: Tensor, ddof: int, epsilon: float
) -> Tensor:
    """GRPO with a reward for each of K steps of one group's sequences (arXiv 2402.03300, 4.1.3).

    Step k of sequence `sequence_K[k]` ends with that sequence's token number `end_K[k]`, counted from 1. Rewards are
    normalised over all K; a token's advantage is the sum over the steps that end with it or after it. Returns
    advantages_N, the tokens of the G sequences laid end to end.
    """
    normalised_K = group_normalised(rewards_K[None], ddof, epsilon)[0]
    sequence_N = torch.arange(lengths_G.numel(), device=lengths_G.device).repeat_interleave(lengths_G)
    first_G = lengths_G.cumsum(0) - lengths_G
    position_N = torch.arange(sequence_N.numel(), device=lengths_G.device) - first_G[sequence_N] + 1
    counts_NK = (sequence_N[:, None] == sequence_K) & (position_N[:, None] <= end_K)
    return counts_NK.to(normalised_K.dtype) @ normalised_K


def gdpo(rewards_RPG: Tensor, weights_R: Tensor, ddof: int, epsilon: float) -> Tensor:
    """GDPO: normalise each of R rewards within its groups, add them by weight, normalise over the batch.

    So rewards (1, 0) and (0, 1) stay apart from (1, 1) whatever their spreads (arXiv 2601.05242). A reward that is NaN
    adds nothing; a completion without any, or a group in which no reward differs, gets 0.
    """
    parts_RPG = torch.stack([group_normalised(rewards_PG.double(), ddof, epsilon) for rewards_PG in rewards_RPG])
    summed_PG = torch.einsum("r,rpg->pg", weights_R.double(), parts_RPG)
    summed_PG = summed_PG.masked_fill(rewards_RPG.isnan().all(0), torch.nan)
    kept_P1 = torch.stack([keep_groups(rewards_PG) for rewards_PG in rewards_RPG]).any(0)[:, None]
    result_PG = _standardised(summed_PG.flatten(), epsilon, ddof).view_as(summed_PG)
    return torch.where(kept_P1, result_PG, 0).to(rewards_RPG.dtype)


def _deviations(values: Tensor) -> Tensor:
    """Float64 differences from the mean over the last axis; NaN is left out, and 0 in the result."""
    values = values.double()
    return (values - values.nanmean(-1, keepdim=True)).nan_to_num()


def _std(values: Tensor, ddof: int) -> Tensor:
    """Float64 standard deviation over the last axis, which is kept with size 1; NaN is left out."""
    freedom = ((~values.isnan()).sum(-1, keepdim=True) - ddof).clamp(min=1)
    return (_deviations(values).square().sum(-1, keepdim=True) / freedom).sqrt()


def _centred(rewards_PG: Tensor) -> Tensor:
    return _zero_unless_kept(rewards_PG, _deviations(rewards_PG))


def _zero_unless_kept(rewards_PG: Tensor, values_PG: Tensor) -> Tensor:
    return torch.where(keep_groups(rewards_PG)[:, None], values_PG, 0)


def _standardised(values_B: Tensor, epsilon: float, ddof: int = 1) -> Tensor:
    return _deviations(values_B) / (_std(values_B, ddof) + epsilon)


def _whitened_tokens(values_N: Tensor, epsilon: float) -> Tensor:
    whitened_N = _deviations(values_N) / (_std(values_N, 1).square() + epsilon).sqrt()
    return whitened_N.to(values_N.dtype)
