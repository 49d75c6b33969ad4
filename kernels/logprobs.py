"""Log-probabilities and entropy of a policy's next tokens from whole logits: the reference of head_logprobs.py.

N: tokens, V: vocabulary.

All of it happens in float32, or float64 for float64 logits: bfloat16 has three digits, a ratio of 1.001 needs more.
Both go through log_softmax, which takes the row's maximum off first; logsumexp z - sum p z is a difference of large
numbers and loses the second digit of the entropy when logits are around 1000.
"""

import torch
from torch import Tensor


def token_logprobs(logits_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    """Return the natural-log probability of each target."""
    return _chosen(_log_softmax(logits_NV), target_ids_N)


def token_entropy(logits_NV: Tensor) -> Tensor:
    """Return each row's entropy in nats, -sum p log p; ln V for equal logits."""
    return _entropy(_log_softmax(logits_NV))


def token_logprobs_and_entropy(logits_NV: Tensor, target_ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return both of the above for the price of one log_softmax."""
    logprobs_NV = _log_softmax(logits_NV)
    return _chosen(logprobs_NV, target_ids_N), _entropy(logprobs_NV)


def _log_softmax(logits_NV: Tensor) -> Tensor:
    return logits_NV.log_softmax(-1, dtype=torch.promote_types(logits_NV.dtype, torch.float32))


def _chosen(logprobs_NV: Tensor, target_ids_N: Tensor) -> Tensor:
    return logprobs_NV.gather(-1, target_ids_N.unsqueeze(-1)).squeeze(-1)


def _entropy(logprobs_NV: Tensor) -> Tensor:
    return -(logprobs_NV.exp() * logprobs_NV).sum(-1)
