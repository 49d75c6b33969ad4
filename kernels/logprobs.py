"""Log-probabilities and entropy of a policy's next tokens: the plain reference. N: tokens, V: vocabulary.

All of it happens in float32, or float64 for float64 logits: bfloat16 has three digits, a ratio of 1.001 needs more.
"""

import torch
from torch import Tensor


def token_logprobs(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """Return the natural-log probability of each target: its logit less the logsumexp of the row."""
    logits_NV = _precise(logits_NV)
    return _chosen(logits_NV, target_ids_N) - logits_NV.logsumexp(-1)


def token_entropy(logits_NV: Tensor) -> Tensor:
    """Return each row's entropy in nats, H = logsumexp z - sum p z; ln V for equal logits."""
    logits_NV = _precise(logits_NV)
    return _entropy(logits_NV, logits_NV.logsumexp(-1))


def token_logprobs_and_entropy(logits_NV: Tensor, target_ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return both of the above with one logsumexp."""
    logits_NV = _precise(logits_NV)
    normaliser_N = logits_NV.logsumexp(-1)
    return _chosen(logits_NV, target_ids_N) - normaliser_N, _entropy(logits_NV, normaliser_N)


def _precise(logits_NV: Tensor) -> Tensor:
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))


def _chosen(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    return logits_NV.gather(-1, target_ids_N.unsqueeze(-1)).squeeze(-1)


def _entropy(logits_NV: Tensor, normaliser_N: Tensor) -> Tensor:
    probs_NV = (logits_NV - normaliser_N.unsqueeze(-1)).exp()
    return normaliser_N - (probs_NV * logits_NV).sum(-1)
