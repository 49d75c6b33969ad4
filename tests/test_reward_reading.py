"""What a reward model reads of a prompt and a response."""

from pathlib import Path
from typing import Any

import pytest

from grpo.model_settings import TokenizerSettings
from grpo.problem_settings import TemplateSettings
from grpo.reward_reading import Card, by_conversation, by_response_alone, by_template, read_card, write_card
from grpo.scratch import make_tokenizer
from grpo.summary import summary_of
from grpo.types import Problem, UserError

ASKED = Problem("p", "2+2?", {"hint": "add"})
ANSWER = "<think>2 and 2</think> It is 4."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(TokenizerSettings(special_tokens=["<think>", "</think>"]))


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (ANSWER, "It is 4."),
        ("It is 4.", "It is 4."),
        ("<think>2 and", ""),
        ("2 and 2</think>It is 4.", "It is 4."),  # the prompt has opened the thought
        ("<think>a</think>b</think> c", "c"),
        ("<think>a</think>", ""),
    ],
)
def test_a_summary_is_what_follows_the_thought(text: str, summary: str) -> None:
    assert summary_of(text) == summary


@pytest.mark.parametrize(
    ("part", "prefill", "ended", "text"),
    [
        ("response", "", True, "2+2?<think>2 and 2</think> It is 4.<eos>"),
        ("response", "<think>", True, "2+2?<think>2 and 2</think> It is 4.<eos>"),  # not opened twice
        ("summary", "<think>", True, "2+2?It is 4.<eos>"),
        ("summary", "", False, "2+2?It is 4."),  # cut at the limit: no end
    ],
)
def test_a_template_gives_the_policys_tokens(tokenizer: Any, part: Any, prefill: str, ended: bool, text: str) -> None:
    read = by_template(TemplateSettings(kind="plain", prefill=prefill), tokenizer, part)
    assert tokenizer.decode(read(ASKED, ANSWER, ended)) == text


def test_a_thought_that_the_template_opens_is_no_part_of_a_summary(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "open.jinja"
    file.write_text("{{ hint }}: {{ prompt }}<think>\n")
    settings = TemplateSettings(kind="jinja", file=str(file))
    summary = by_template(settings, tokenizer, "summary")(ASKED, ANSWER, True)
    assert tokenizer.decode(summary) == "add: 2+2?It is 4.<eos>"
    whole = by_template(settings, tokenizer, "response")(ASKED, "<think>\n2</think> 4", True)
    assert tokenizer.decode(whole) == "add: 2+2?<think>\n2</think> 4<eos>"


def test_published_models_read_a_conversation_or_a_text(tokenizer: Any) -> None:
    conversation = by_conversation(tokenizer, "summary")(ASKED, ANSWER, True)
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is 4."}]
    assert tokenizer.decode(conversation) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(by_response_alone(tokenizer, "response")(ASKED, ANSWER, True)) == ANSWER


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{{ prompt }}!")
    card = Card("response", "pointwise", TemplateSettings(kind="jinja", file=str(template), prefill="<think>"))
    folder = tmp_path / "model"
    write_card(folder, card)
    template.unlink()  # the folder holds a copy
    found = read_card(str(folder))
    assert found is not None
    assert (found.judges, found.objective, found.template.prefill) == ("response", "pointwise", "<think>")
    assert Path(str(found.template.file)).read_text() == "{{ prompt }}!"
    assert read_card(str(tmp_path)) is None
    (folder / "reward_model.json").write_text("{}")
    with pytest.raises(UserError, match=r"reward_model\.json: cannot be read"):
        read_card(str(folder))
