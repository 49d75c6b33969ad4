"""Reward models: their losses, how right they are, and that padding changes nothing."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from grpo.calibration import calibration_error, roc_area
from grpo.losses.preference import bradley_terry, labelled
from grpo.preference import Example, PreferenceLoss, evaluated, preference_batches, preference_figures
from grpo.scalar_model import log_odds, outputs, pad_id_of, padded, scores

PAIRS = [
    Example(((1, 2, 3, 4, 5, 6, 256), (1, 2, 3, 9, 256))),
    Example(((7, 8, 256), (7, 8, 3, 3, 3, 3, 3, 3, 3, 256))),
    Example(((4, 4, 256), (4, 5, 256))),
]


@pytest.fixture
def scalar(tiny_model: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """`scalar(family)`: a tiny decoder's trunk with a random scalar head."""

    def make(family: str) -> PreTrainedModel:
        config = tiny_model(family).config
        config.num_labels, config.pad_token_id = 1, 0
        torch.manual_seed(1)
        return cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config).eval())

    return make


def learner(model: Any, budget: int) -> Any:
    settings, accelerator = SimpleNamespace(tokens_per_micro_batch=budget), SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(model=model, settings=settings, accelerator=accelerator)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_bradley_terry_by_hand() -> None:
    """sigmoid(log 3) = 3/4; the sums of the pairs are log 3 and -1."""
    chosen, rejected = torch.tensor([math.log(3), -0.5]), torch.tensor([0.0, -0.5])
    assert bradley_terry(chosen, rejected).tolist() == pytest.approx([-math.log(0.75), math.log(2)])
    centred = bradley_terry(chosen, rejected, center=0.1).tolist()
    assert centred == pytest.approx([-math.log(0.75) + 0.1 * math.log(3) ** 2, math.log(2) + 0.1])


def test_the_loss_of_a_label_by_hand() -> None:
    found = labelled(torch.tensor([math.log(3), math.log(3)]), torch.tensor([1.0, 0.0])).tolist()
    assert found == pytest.approx([-math.log(0.75), -math.log(0.25)])


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_of_pairs_by_hand() -> None:
    """Preferred with 3/4, 3/4, 1/2 and 1/4: two of four are right, since a tie is wrong."""
    figures = preference_figures([math.log(3), math.log(3), 0.0, -math.log(3)], [1.0] * 4)
    assert figures["accuracy"] == 0.5
    assert (figures["accuracy_low"], figures["accuracy_high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert figures["loss"] == pytest.approx(-(2 * math.log(0.75) + math.log(0.5) + math.log(0.25)) / 4)
    assert figures["brier"] == pytest.approx((2 / 16 + 1 / 4 + 9 / 16) / 4)
    # 3/4 is said three times and right twice; 1/2 once and wrong
    assert figures["calibration_error"] == pytest.approx((3 * (3 / 4 - 2 / 3) + 1 / 2) / 4)
    assert figures["examples"] == 4


def test_figures_of_extreme_scores_are_finite() -> None:
    figures = preference_figures([1e4, -1e4, 0.0], [1.0, 1.0, 0.0])
    assert all(map(math.isfinite, figures.values()))
    assert figures["loss"] == pytest.approx((0 + 1e4 + math.log(2)) / 3)


def test_the_roc_area_is_the_share_of_pairs_in_order() -> None:
    assert roc_area([1, 1, 2, 0], [1, 0, 1, 0]) == 3.5 / 4  # one tie
    assert roc_area([1, 2], [1, 1]) is None


def test_a_sure_and_right_judge_is_calibrated() -> None:
    assert calibration_error([1.0, 1.0, 0.0], [1, 1, 0]) == 0


# --- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "deepseek_v3", "qwen3_next"])
def test_padding_changes_no_score(scalar: Callable[..., PreTrainedModel], family: str) -> None:
    """Each text by itself, as transformers computes it without padding, against all of them in one batch."""
    model = scalar(family)
    texts = [text for pair in PAIRS for text in pair.texts]
    with torch.no_grad():
        alone = [model(torch.tensor([text])).logits.item() for text in texts]
    together = scores(model, texts, budget=1000)
    assert len({round(value, 3) for value in alone}) == len(alone)
    assert together == pytest.approx(alone, abs=2e-5)


def test_padding_and_micro_batches_change_no_gradient(scalar: Callable[..., PreTrainedModel]) -> None:
    gradients = []
    for budget in (1, 30, 1000):
        model = scalar("llama")
        batches = preference_batches(PAIRS, learner(model, budget))
        assert len(batches) == {1: 3, 30: 2, 1000: 1}[budget]
        for batch in batches:
            PreferenceLoss(center=0.01)(model, batch)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-5)


def test_padding_changes_nothing_where_the_end_is_also_the_padding(scalar: Callable[..., PreTrainedModel]) -> None:
    """Tokenizers without a padding token pad with their end token: the text is then read before its end."""
    model = scalar("llama")
    model.config.pad_token_id = 256
    alone = [scores(model, [text], budget=100)[0] for text in PAIRS[0].texts]
    assert scores(model, PAIRS[0].texts, budget=100) == pytest.approx(alone, abs=2e-5)


def test_an_encoder_is_read_as_it_reads_itself() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=264, num_labels=1, pad_token_id=0, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        alone = [model(torch.tensor([text])).logits.item() for text in PAIRS[1].texts]
    assert scores(model, PAIRS[1].texts, budget=100) == pytest.approx(alone, abs=2e-5)


def test_the_loss_of_a_batch_is_that_of_its_scores(scalar: Callable[..., PreTrainedModel]) -> None:
    model = scalar("llama")
    found = scores(model, [text for pair in PAIRS for text in pair.texts], budget=1000)
    margins = [a - b for a, b in zip(found[::2], found[1::2], strict=True)]
    (batch,) = preference_batches(PAIRS, learner(model, 1000))
    loss, tally = PreferenceLoss(center=0.0)(model, batch)
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 3, rel=1e-5)
    assert tally.figures()["accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 3)
    assert tally.figures()["tokens"] == sum(len(text) for pair in PAIRS for text in pair.texts)
    assert evaluated(model, PAIRS, 1000)["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_labels_learn_from_one_text_each(scalar: Callable[..., PreTrainedModel]) -> None:
    model = scalar("llama")
    examples = [Example((PAIRS[0].texts[0],), 1.0), Example((PAIRS[1].texts[0],), 0.0)]
    good, bad = scores(model, [one.texts[0] for one in examples], budget=100)
    (batch,) = preference_batches(examples, learner(model, 100))
    loss, _ = PreferenceLoss(center=0.0)(model, batch)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-good)) + math.log1p(math.exp(bad))) / 2, rel=1e-5)
    assert "roc_area" in evaluated(model, examples, 100)


def test_log_odds_of_classifiers() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    p = math.exp(3) / sum(map(math.exp, (1, 2, 3)))
    assert log_odds(logits, 2, independent=False).item() == pytest.approx(math.log(p / (1 - p)))
    assert log_odds(logits, 1, independent=True).item() == 2.0
    assert log_odds(logits[:, :1], 0, independent=False).item() == 1.0


def test_rows_are_padded_on_the_right(scalar: Callable[..., PreTrainedModel]) -> None:
    rows = padded([[5, 6], [7]], pad_id_of(scalar("llama")), torch.device("cpu"))
    assert rows.token_ids_RL.tolist() == [[5, 6], [7, 0]]
    assert rows.valid_RL.tolist() == [[1, 1], [1, 0]]
    assert outputs(scalar("llama"), rows).shape == (2, 1)
