import pytest

from grpo.rewards.format import format_reward
from grpo.rewards.language import language, language_of, word_scripts
from grpo.rewards.length import length, overlong, repetition

BOTH = "<think>2+2</think><answer>4</answer>"


@pytest.mark.parametrize(
    ("text", "think_answer", "think_text"),
    [
        (BOTH, 1, 1),
        (f"\n  {BOTH} \n", 1, 1),
        ("<think>\n2\n</think>\n\n<answer>\n4\n</answer>", 1, 1),
        ("<think>2+2</think> It is 4.", 0, 1),
        ("<think>2+2</think> It is <answer>4</answer>, surely.", 0, 1),
        ("Well: <think>2+2</think><answer>4</answer>", 0, 0),
        ("<think>2+2</think>", 0, 0),
        ("<think>2+2</think> \u200b\u00a0", 0, 0),
        ("<think> \n</think><answer>4</answer>", 0, 0),
        ("<think>\u200b\u2060\ufeff\u3164</think><answer>4</answer>", 0, 0),
        ("<think>2+2</think><answer> \u200b</answer>", 0, 0),
        ("<THINK>2+2</THINK><answer>4</answer>", 0, 0),
        ("<think>2</think><think>2</think><answer>4</answer>", 0, 0),
        ("<think><think>2</think><answer>4</answer>", 0, 0),
        ("</think>2<think><answer>4</answer>", 0, 0),
        ("<think>so <answer>4</answer></think><answer>4</answer>", 0, 0),
        ("<think>so </answer></think><answer>4</answer>", 0, 0),
        ("<think>the tag `<think>` comes first</think><answer>4</answer>", 0, 0),
        ("<think>the tag &lt;answer&gt; comes next</think><answer>4</answer>", 1, 1),
        ("<think>2</think><answer>4</answer><answer>5</answer>", 0, 0),
        ("<think>2</think><answer>4", 0, 0),
        ("<think>2</think></answer>4<answer>", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_format_of_r1(text: str, think_answer: int, think_text: int) -> None:
    assert format_reward(text) == think_answer
    assert format_reward(text, mode="think_text") == think_text


def test_language_is_the_share_of_target_words_as_in_eq_7_of_r1() -> None:
    assert language("<think>we add 二 and two</think>") == pytest.approx(0.8)
    assert language("<think>we add 二 and two</think>", target="zh") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("<think>one two</think> 答案是四", "en", 1.0),
        ("one 二", "en", 0.5),
        ("<think>one two three", "en", 1.0),
        ("we get $x + 二$ and `变量 = 1` 12 3.5 \\frac{一}{二} https://例.cn/二 <b>", "en", 1.0),
        ("まず x を計算", "ja", 5 / 6),
        ("сначала посчитаем sum", "ru", 2 / 3),
        ("먼저 더하면", "ko", 1.0),
        ("l'été naïve e\u0301te\u0301", "fr", 1.0),
    ],
)
def test_code_formulas_addresses_and_tags_are_not_words(text: str, target: str, share: float) -> None:
    assert language(text, target=target) == pytest.approx(share)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "<think>12 + 3 = 15</think>", "<think></think> words outside", "$x$ 🙂 ---"])
def test_a_thought_without_words_has_no_language(text: str) -> None:
    assert language(text) is None


def test_words_are_runs_of_one_script() -> None:
    assert word_scripts("don't 数学abcд") == ["LATIN", "CJK", "CJK", "LATIN", "CYRILLIC"]
    assert word_scripts("ναι, όχι") == ["GREEK", "GREEK"]


def test_signs_of_formulas_are_no_words_of_another_language() -> None:
    assert language("<think>the angle θ is 2π, in ℝ or 𝑥, 5 µm</think>") == 1.0
    assert language("<think>the angle γωνία is 2π</think>") == pytest.approx(3 / 4)


def test_overlong_is_eq_13_of_dapo() -> None:
    lengths = [10000, 16384, 18432, 20480, 20481]
    assert [overlong("", n, max_tokens=20480, buffer=4096) for n in lengths] == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_length_falls_evenly_behind_its_target() -> None:
    assert [length("", n, target=100, buffer=50) for n in (0, 100, 125, 150, 500)] == [1.0, 1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "credit"),
    [
        (BOTH, 1.0),
        ("<think>2+2</think><answer>4", 0.7),
        ("<think>2+2</think> 4", 0.5),
        ("<think>2+2", 0.3),
        ("<think>2</think><think>2</think><answer>4</answer>", 0.5),
        ("Well: <answer>4</answer>", 0.4),
        ("<answer>4</answer><think>2+2</think>", 0.4),
        ("4", 0.0),
    ],
)
def test_graded_gives_a_tenth_for_the_start_and_two_for_every_tag(text: str, credit: float) -> None:
    assert format_reward(text, graded=True) == pytest.approx(credit)


def test_graded_in_two_tags() -> None:
    assert format_reward("<think>2+2</think> 4", mode="think_text", graded=True) == 1.0
    assert format_reward("<think>2+2", mode="think_text", graded=True) == pytest.approx(0.5)


FRENCH = "Nous avons deux pommes et trois poires dans le panier."
ENGLISH = "We have two apples and three pears in the basket."


def test_languages_of_one_script_are_told_apart_by_the_sentence() -> None:
    assert language(f"<think>{ENGLISH} {FRENCH}</think>") == pytest.approx(0.5)
    assert language(FRENCH) == 0.0
    assert language(FRENCH, target="fr") == 1.0
    assert language(FRENCH, identify=False) == 1.0


def test_short_sentences_are_looked_at_together_and_right_in_doubt() -> None:
    assert language("So 4 and 5. Then 9. And 11. Wait. No.") == 1.0


def test_the_target_is_the_prompts_language_or_a_columns() -> None:
    assert language(FRENCH, "Combien de fruits avons-nous dans le panier ?", target="prompt") == 1.0
    assert language(ENGLISH, "Combien de fruits avons-nous dans le panier ?", target="prompt") == 0.0
    assert language("我们有苹果", "有多少水果？", target="prompt") == 1.0
    assert language(ENGLISH, "1+1=", target="prompt") is None
    assert language(FRENCH, column="lang", lang="fr") == 1.0
    assert language(FRENCH, column="lang", lang=None) is None
    with pytest.raises(ValueError, match="expected a language of en, de"):
        language(FRENCH, column="lang", lang="xx")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("12 + 3", None),
        ("いくつですか", "ja"),
        ("有多少", "zh"),
        ("얼마나", "ko"),
        ("How many apples are there?", "en"),
    ],
)
def test_the_language_of_a_prompt(text: str, code: str | None) -> None:
    assert language_of(text) == code


def test_repetition_is_the_share_of_repeated_runs_of_words() -> None:
    assert repetition("we add two and three and get five") == 0.0
    assert repetition("wait " * 200) == pytest.approx(-1.0)
    assert repetition("a b c d " * 2 + "e", n=4, allowed=0.0) == pytest.approx(-(1 / 6) / 0.9, abs=1e-6)
    assert repetition("我们" * 100) == pytest.approx(-1.0)
    assert repetition("") == 0.0
