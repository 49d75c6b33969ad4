"""Two models' predictions of the same tokens, compared over the whole vocabulary, some tokens at a time.

The backward pass computes each part once more, so that logits exist for one part alone.

Axes: N tokens, D hidden units (each model has its own), V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grpo.kernels.head_logprobs import LogitRules, tokens_at_once


class States(NamedTuple):
    """Hidden states (N, D) where tokens are predicted, and what makes logits of them."""

    hidden_ND: Tensor
    head: Callable[[Tensor], Tensor]
    rules: LogitRules

    def logits(self, first: int, last: int) -> Tensor:
        """The logits (n, V) of some of the tokens."""
        return self.rules(self.head(self.hidden_ND[first:last]))


def divergence_scores(student: States, teacher: States, target_ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """The targets' log-probabilities under the student, and KL(teacher, student) in nats, (N,) each.

    The gradient is the student's alone. Models of one tokenizer may have more logits than it has tokens, and one more
    than the other: what only one of them has is left out of both.
    """

    def scores(first: int, last: int) -> tuple[Tensor, Tensor]:
        student_NV = student.logits(first, last)
        with torch.no_grad():
            teacher_NV = teacher.logits(first, last)
        both = min(student_NV.size(-1), teacher_NV.size(-1))
        student_NV, teacher_NV = student_NV[:, :both].log_softmax(-1), teacher_NV[:, :both].log_softmax(-1)
        kl_N = (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1)
        return student_NV.gather(1, target_ids_N[first:last, None]).squeeze(1), kl_N

    size = tokens_at_once(student.head, student.hidden_ND)
    parts = [
        checkpoint(scores, first, min(first + size, len(target_ids_N)), use_reentrant=False)
        for first in range(0, len(target_ids_N), size)
    ]
    logprobs_N, kl_N = map(torch.cat, zip(*parts, strict=True))
    return logprobs_N, kl_N
