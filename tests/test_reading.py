from typing import Any

import pytest

from grpo.reading import hard_to_read, parts, runs, words, written
from grpo.rejection_settings import LayoutSettings, ReadableSettings

BY_SCRIPT = ReadableSettings(identify=False)


def test_words_are_letters_and_digits_and_single_han_letters() -> None:
    assert words("The sum: 3+4 = x_2, Straße 数学!") == ["the", "sum", "3", "4", "x", "2", "strasse", "数", "学"]
    assert runs("one two three", 2) == ["one two", "two three"]
    assert runs("one two", 3) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>1 and 2 is 3</think><answer>3</answer>", ("1 and 2 is 3", "<answer>3</answer>")),
        (" <think>\n a \n</think>\n\n b ", ("a", "b")),
        ("opened by the prompt</think>3", ("opened by the prompt", "3")),
        ("<think>a</think>", None),
        ("<think> </think>b", None),
        ("<think>a", None),
        ("no tags", None),
        ("<think>a</think>b</think>c", None),
        ("<think>a<think>b</think>c", None),
        ("<think>a</think>b<think>c", None),
    ],
)
def test_a_layout_has_reasoning_then_a_summary_each_once(text: str, found: tuple[str, str] | None) -> None:
    assert parts(text, LayoutSettings()) == found


def test_what_is_written_down_is_the_sample_or_the_layouts_words() -> None:
    text = "<think> 1 {summary} 2 </think> 3 "
    assert written(text, LayoutSettings()) == "<think> 1 {summary} 2 </think> 3"
    r1 = LayoutSettings(write="|special_token|{reasoning}|special_token|{summary}")
    assert written(text, r1) == "|special_token|1 {summary} 2|special_token|3"
    turned = LayoutSettings(write="{summary}, because {reasoning}.")
    assert written(text, turned) == "3, because 1 {summary} 2."


@pytest.mark.parametrize(
    ("reasoning", "prompt", "changes", "reason"),
    [
        ("we add three and four", "What is 3+4?", {}, None),
        ("we add 三 and 四 so", "What is 3+4?", {}, "mixed_language"),  # 4 of 6 words: 0.67 < 0.95
        ("we add 三 and 四 so", "What is 3+4?", {"language_share": 0.6}, None),
        ("我们把三加四", "三加四等于几", {}, None),
        ("我们把三加四", "三加四等于几", {"language": "en"}, "mixed_language"),
        ("我们把三加四", "3+4=", {}, None),  # a prompt without words has no language, so that of the reasoning counts
        ("我们把三 plus 四", "3+4=", {}, "mixed_language"),
        ("a b 三", "3+4=", {}, "mixed_language"),
        ("三つに四つを足す", "3+4=", {}, None),  # Han and kana
        ("3+4=7", "What is 3+4?", {"language": "en"}, None),  # nor has reasoning without words
        ("one two three four\n\nfive", "3+4=", {"paragraph_words": 4}, None),
        ("one two three four five", "3+4=", {"paragraph_words": 4}, "long_paragraph"),
        ("first\n```python\nx = 1\n```", "3+4=", {}, "code_block"),
        ("first\n~~~\nx = 1\n~~~", "3+4=", {}, "code_block"),
        ("first\n```\nx = 1\n```", "3+4=", {"code_blocks": True}, None),
        ("a `name` in a line", "3+4=", {}, None),
    ],
)
def test_what_is_hard_to_read(reasoning: str, prompt: str, changes: dict[str, Any], reason: str | None) -> None:
    assert hard_to_read(reasoning, prompt, BY_SCRIPT.model_copy(update=changes)) == reason
