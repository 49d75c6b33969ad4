"""Sequence classifiers as rewards: what they read, what they give, and what is said when they cannot judge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from grpo.model_settings import TokenizerSettings
from grpo.problem_settings import TemplateSettings
from grpo.reward_reading import Card, by_template, write_card
from grpo.reward_settings import RewardSettings
from grpo.rewards.preference_models import check_models, with_models
from grpo.rewards.registry import load_reward
from grpo.rewards.score import score
from grpo.scratch import make_tokenizer
from grpo.types import Completion, Finish, Group, Problem, Score, UserError

TEXTS = ("<think>hm</think> It is 4.", "<think>or five?</think> It is 5, I am sure of it.", "<think>never ends")


@pytest.fixture
def classifier(tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> Callable[..., str]:
    """`classifier(labels=1, **config)`: the folder of a tiny sequence classifier with a chat template."""

    def make(labels: int = 1, **more: Any) -> str:
        tokenizer = make_tokenizer(TokenizerSettings(special_tokens=["<think>", "</think>"]))
        config = tiny_model("llama").config
        config.update({"num_labels": labels, "pad_token_id": tokenizer.pad_token_id, **more})
        torch.manual_seed(3)
        folder = tmp_path / f"classifier-{labels}"
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def judged(folder: str, *texts: str, finish: Finish = "stop", **options: Any) -> list[Score]:
    reward = load_reward(RewardSettings(name="reward_model", options={"model": folder, "device": "cpu", **options}))
    completions = tuple(Completion(text, (1,), (0.0,), finish, 0) for text in texts)
    return list(score([Group(Problem("p", "2+2?", {"hint": "add"}), (1,), completions)], [reward]).groups[0].scores)


def values(scores: list[Score]) -> list[float | None]:
    return [one.parts["reward_model"] for one in scores]


def outputs(folder: str, *texts: str) -> list[list[float]]:
    """What transformers gives for each text by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = make_tokenizer(TokenizerSettings(special_tokens=["<think>", "</think>"]))
    with torch.no_grad():
        return [model(torch.tensor([tokenizer.encode(text)])).logits[0].tolist() for text in texts]


def test_a_published_model_reads_the_summary_in_a_conversation(classifier: Callable[..., str]) -> None:
    folder = classifier()
    told = [f"user:\n2+2?\nassistant:\n{summary}<eos>\n" for summary in ("It is 4.", "It is 5, I am sure of it.", "")]
    expected = [row[0] for row in outputs(folder, *told)]
    found = judged(folder, *TEXTS)
    assert values(found) == pytest.approx(expected, abs=2e-5)
    assert values(judged(folder, *TEXTS, tokens_per_batch=1)) == pytest.approx(expected, abs=2e-5)
    assert [dict(one.notes) for one in found] == [{}, {}, {"reward_model": "no summary"}]


def test_an_empty_summary_may_have_a_price(classifier: Callable[..., str]) -> None:
    found = judged(classifier(), *TEXTS, empty=-3.0)
    assert values(found)[2] == -3.0
    assert found[2].notes["reward_model"] == "no summary"


def test_a_text_may_be_judged_without_its_prompt(classifier: Callable[..., str]) -> None:
    folder = classifier()
    expected = [row[0] for row in outputs(folder, *TEXTS)]
    found = values(judged(folder, *TEXTS, reads="response", part="response"))
    assert found == pytest.approx(expected, abs=2e-5)


def test_a_classifier_gives_the_log_odds_of_a_label(classifier: Callable[..., str]) -> None:
    labels = {"id2label": {0: "safe", 1: "odd", 2: "bad"}, "label2id": {"safe": 0, "odd": 1, "bad": 2}}
    folder = classifier(3, **labels)
    (row,) = outputs(folder, TEXTS[0])
    share = torch.tensor(row).softmax(-1)[0].item()
    one = {"reads": "response", "part": "response"}
    assert values(judged(folder, TEXTS[0], output="safe", scale="probability", **one)) == pytest.approx([share])
    odds = torch.tensor(share).logit().item()
    assert values(judged(folder, TEXTS[0], output=0, **one)) == pytest.approx([odds], abs=1e-4)
    reward = load_reward(RewardSettings(name="reward_model", options={"model": folder}))
    assert reward.prepare is not None
    with pytest.raises(UserError, match="has the outputs safe, odd, bad: expected one of them as output, got None"):
        reward.prepare()


def test_a_model_of_our_own_knows_what_it_judges(classifier: Callable[..., str]) -> None:
    folder = classifier()
    template = TemplateSettings(kind="plain")
    write_card(Path(folder), Card("response", "pairwise", template))
    tokenizer = make_tokenizer(TokenizerSettings(special_tokens=["<think>", "</think>"]))
    read = by_template(template, tokenizer, "response")
    for finish in ("stop", "length"):  # one that was cut has no end
        told = [tokenizer.decode(read(Problem("", "2+2?", {}), text, finish == "stop")) for text in TEXTS]
        expected = [row[0] for row in outputs(folder, *told)]
        assert values(judged(folder, *TEXTS, finish=finish)) == pytest.approx(expected, abs=2e-5)
    with pytest.raises(UserError, match="learned to judge the response by its own template"):
        load_reward(RewardSettings(name="reward_model", options={"model": folder, "part": "summary"})).prepare()  # type: ignore[misc]


def test_a_text_without_room_is_an_error_of_its_own(classifier: Callable[..., str]) -> None:
    found = judged(classifier(), "short", "long " * 40)
    assert [one.status["reward_model"] for one in found] == ["ok", "error"]
    assert found[1].total is None


def test_names_of_stages_become_their_models() -> None:
    settings = [
        RewardSettings(name="reward_model", options={"model": "02-reward_model"}),
        RewardSettings(name="format"),
    ]
    stage, other = with_models(settings, {"02-reward_model": "/runs/r/02-reward_model/model"}, torch.device("cpu"))
    assert stage.options == {"model": "/runs/r/02-reward_model/model", "device": "cpu"}
    assert other is settings[1]
    (own,) = with_models([RewardSettings(name="reward_model", options={"model": "m", "device": "cuda:1"})], {}, "cpu")
    assert own.options == {"model": "m", "device": "cuda:1"}


def test_models_are_looked_for_before_the_run(
    classifier: Callable[..., str], tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    def check(model: str) -> None:
        check_models([RewardSettings(name="reward_model", options={"model": model})], ["01-reward_model"])

    check("01-reward_model")
    check(classifier())
    check("owner/on-the-hub")
    tiny_model("llama").save_pretrained(tmp_path / "policy")
    with pytest.raises(UserError, match=r"another sequence classifier, got LlamaForCausalLM"):
        check(str(tmp_path / "policy"))
    with pytest.raises(UserError, match=r"03-reward_model is none of the reward models so far \(01-reward_model\)"):
        check("03-reward_model")
    with pytest.raises(UserError, match="no such model folder"):
        check("/nowhere/model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "m", "scale": "logit"}, "options.scale"),
        ({"model": "m", "modle": "x"}, "did you mean model"),
        ({}, "missing 1 required keyword-only argument: 'model'"),
    ],
)
def test_wrong_options_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_reward(RewardSettings(name="reward_model", options=options))
