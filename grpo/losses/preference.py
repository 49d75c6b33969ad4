"""Losses of reward models.

Axes: P pairs or labelled responses.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, center: float = 0.0) -> Tensor:
    """-log P(chosen is better) = -log sigmoid(chosen - rejected), by pair (Bradley & Terry 1952; InstructGPT, eq. 1).

    Differences alone matter to it; `center` times the square of the pair's sum keeps scores around 0 (Eisenstein et
    al. 2023, 2312.09244, eq. 2).
    """
    return -logsigmoid(chosen_P - rejected_P) + center * (chosen_P + rejected_P).square()


def labelled(scores_P: Tensor, labels_P: Tensor) -> Tensor:
    """Cross-entropy of the label, 1 or 0 or a probability, under sigmoid(score), by response."""
    return binary_cross_entropy_with_logits(scores_P, labels_P, reduction="none")
