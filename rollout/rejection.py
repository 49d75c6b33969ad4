"""Exact rejection sampling of drafts: what comes out is distributed as if it had been drawn without them.

Leviathan et al. 2023 (arXiv 2211.17192), section 2.3: a draft d from q is kept with probability min(1, p(d) / q(d));
in place of one that is not, a token is drawn from the part of p that q lacks, max(0, p - q).

Axes: B rows, V vocabulary.
"""

import torch
from torch import Tensor

from grpo.rollout.sampler import COUNTS, inverse_cdf


def accepted(target_BV: Tensor, draft_BV: Tensor, token_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Whether each row's draft `token_B`, drawn by the counts `draft_BV`, is kept under the counts `target_BV`."""
    return uniform_B * _share(draft_BV, token_B) < _share(target_BV, token_B)


def corrected(target_BV: Tensor, draft_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token (B,) in place of a draft that was not kept."""
    lacking_BV = (_shares(target_BV) - _shares(draft_BV)).clamp_(min=0).mul_(COUNTS).long()
    # Equal but for rounding: such a draft is kept, unless the number drawn falls into the rounding.
    nothing_B1 = lacking_BV.sum(-1, keepdim=True) == 0
    return inverse_cdf(torch.where(nothing_B1, target_BV, lacking_BV), uniform_B)


def _shares(counts_BV: Tensor) -> Tensor:
    return counts_BV.double() / counts_BV.sum(-1, keepdim=True)


def _share(counts_BV: Tensor, token_B: Tensor) -> Tensor:
    return counts_BV.gather(-1, token_B[:, None])[:, 0].double() / counts_BV.sum(-1)
