"""Attention of rows that begin with the same tokens, whose keys and values are held once and not for every row.

Axes: B rows, K key heads, G query heads that share one, C tokens of the beginning, L after it, D numbers of a head.
"""

import torch
from torch import Tensor, nn

from grpo.kernels.plain_attention import Rules


class Beginning:
    """What all rows of a batch begin with: keys and values as every layer's attention is given them, without rows.

    The pass that reads the beginning, alone in its batch, writes them down, and later passes over what comes after it
    are given them. They are not taken from a cache, which may hold something else (latents, expanded before attention).
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.is_read = False
        self.fits = True

    def note(self, layer: int, key_1KCD: Tensor, value_1KCD: Tensor) -> None:
        """A layer's attention in the pass over the beginning; one that attends twice cannot be told by its number."""
        self.fits = self.fits and layer not in self.layers
        self.layers[layer] = key_1KCD[0], value_1KCD[0]


def begun_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, beginning: tuple[Tensor, Tensor], rules: Rules
) -> Tensor:
    """A row's newest token attends to what all rows begin with, which has no axis of rows, and to what its row holds.

    Scores are float32 under autocast too, as the learner's are.
    """
    shared_KCD, shared_value_KCD = beginning
    query_BKGD = query.squeeze(2).unflatten(1, (key.shape[1], -1))
    dtype, rows = torch.promote_types(query.dtype, torch.float32), len(query)
    with torch.autocast(query.device.type, enabled=False):
        asked_KND = query_BKGD.transpose(0, 1).flatten(1, 2).to(dtype)
        shared_BKGC = (asked_KND @ shared_KCD.to(dtype).mT).unflatten(1, (rows, -1)).transpose(0, 1)
        scores = rules.score(torch.cat([shared_BKGC, query_BKGD.to(dtype) @ key.to(dtype).mT], -1))
        if mask is not None:
            hidden = nn.functional.pad(~mask, (shared_KCD.shape[1], 0))
            scores = scores.masked_fill(hidden, torch.finfo(dtype).min)
        shared, own = scores.softmax(-1).to(value.dtype).split([shared_KCD.shape[1], key.shape[2]], -1)
        sum_KND = shared.transpose(0, 1).flatten(1, 2) @ shared_value_KCD
        out_BKGD = sum_KND.unflatten(1, (rows, -1)).transpose(0, 1) + own @ value
    return out_BKGD.flatten(1, 2)[:, None].contiguous()


def after_beginning(
    key: Tensor, value: Tensor, mask: Tensor | None, queries: int, beginning: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (B, K, C + L, D) of whole rows, and who sees what: for the one pass that asks of many tokens."""
    whole = [
        torch.cat([shared.expand(len(own), -1, -1, -1), own], 2)
        for shared, own in zip(beginning, (key, value), strict=True)
    ]
    if mask is None:
        mask = torch.ones(1, 1, queries, key.shape[2], dtype=torch.bool, device=key.device).tril(key.shape[2] - queries)
    return whole[0], whole[1], nn.functional.pad(mask, (beginning[0].shape[1], 0), value=True)
