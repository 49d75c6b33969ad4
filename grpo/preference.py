"""What a reward model learns from and how right it is: pairs, labels, their loss, figures on held-out examples.

Axes: P examples of a micro-batch; R rows, two for a pair and one for a labelled response.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from torch import Tensor, nn

from grpo.calibration import brier_score, calibration_error, roc_area, sigmoid
from grpo.evaluation import wilson_interval
from grpo.learner import Learner
from grpo.losses.preference import bradley_terry, labelled
from grpo.scalar_model import Rows, outputs, pad_id_of, padded, scores, within_budget
from grpo.tally import Tally


@dataclass(frozen=True)
class Example:
    """A pair, the better text first, or one text with its label. Texts are token ids."""

    texts: tuple[tuple[int, ...], ...]
    label: float = 1.0

    def __len__(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.texts))


@dataclass(frozen=True)
class PreferenceBatch:
    """P examples as rows, those of an example side by side, and what their losses count in the step."""

    rows: Rows
    labels_P: Tensor
    weight: float


def preference_batches(examples: Sequence[Example], learner: Learner) -> list[PreferenceBatch]:
    """The micro-batches of a step: whole examples within a budget of tokens, padding included."""
    budget = learner.settings.tokens_per_micro_batch
    parts = within_budget([len(one) * len(one.texts) for one in examples], budget)
    pad_id, device = pad_id_of(learner.model), learner.accelerator.device
    return [_batch([examples[i] for i in part], 1 / len(examples), pad_id, device) for part in parts]


def _batch(examples: Sequence[Example], weight: float, pad_id: int, device: torch.device) -> PreferenceBatch:
    rows = padded([text for example in examples for text in example.texts], pad_id, device)
    return PreferenceBatch(rows, torch.tensor([example.label for example in examples], device=device), weight)


@dataclass(frozen=True)
class PreferenceLoss:
    """The mean loss over the examples of a step; `center` is for pairs."""

    center: float

    def __call__(self, model: nn.Module, batch: PreferenceBatch) -> tuple[Tensor, Tally]:
        """The micro-batch's share of the mean, and figures about its examples."""
        scores_PR = outputs(model, batch.rows)[:, 0].view(len(batch.labels_P), -1)
        pairs = scores_PR.shape[1] == 2
        margin_P = scores_PR[:, 0] - scores_PR[:, 1] if pairs else scores_PR[:, 0]
        if pairs:
            loss_P = bradley_terry(scores_PR[:, 0], scores_PR[:, 1], self.center)
        else:
            loss_P = labelled(margin_P, batch.labels_P)
        right_P = (margin_P > 0) == (batch.labels_P >= 0.5)
        tally = Tally().tokens("accuracy", right_P.float()).tokens("score/mean", scores_PR.flatten())
        if pairs:
            tally.tokens("score/margin", margin_P)
        return batch.weight * loss_P.sum(), tally.add("tokens", float(batch.rows.valid_RL.sum()))


# --- held-out examples ------------------------------------------------------------------------------------------------


def evaluated(model: nn.Module, examples: Sequence[Example], budget: int) -> dict[str, float]:
    """How right the model is: accuracy with its 95 % interval, loss, calibration, and where its scores lie."""
    found = scores(model, [text for example in examples for text in example.texts], budget)
    spread = {"score_mean": fmean(found), "score_std": pstdev(found)}
    if len(examples[0].texts) == 2:
        margins = [chosen - rejected for chosen, rejected in zip(found[::2], found[1::2], strict=True)]
        return preference_figures(margins, [1.0] * len(margins)) | spread
    labels = [example.label for example in examples]
    area = roc_area(found, labels)
    return preference_figures(found, labels) | ({} if area is None else {"roc_area": area}) | spread


def preference_figures(margins: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
    """Figures of the prediction sigmoid(margin), each against its label.

    A pair's margin is the better text's score less the other's, and its label 1: equal scores are wrong. Calibration
    is of the confidence in what is preferred: how often it is right.
    """
    probabilities = [sigmoid(margin) for margin in margins]
    right = [float((margin > 0) == (label >= 0.5)) for margin, label in zip(margins, labels, strict=True)]
    confidence = [max(p, 1 - p) for p in probabilities]
    low, high = wilson_interval(sum(right), len(right))
    return {
        "accuracy": fmean(right),
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": fmean(_cross_entropy(m, label) for m, label in zip(margins, labels, strict=True)),
        "calibration_error": calibration_error(confidence, right),
        "brier": brier_score(probabilities, labels),
        "examples": float(len(margins)),
    }


def _cross_entropy(x: float, label: float) -> float:
    """-label log sigmoid(x) - (1 - label) log sigmoid(-x), without overflow."""
    return max(x, 0.0) - label * x + math.log1p(math.exp(-abs(x)))
