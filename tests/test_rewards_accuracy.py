import time

import pytest

from grpo.rewards.accuracy import accuracy, gold_text
from grpo.rewards.answers.judge import judged
from grpo.rewards.extraction import boxed_answer, free_answer, mathematical_answer


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        (r"so \boxed{72}.", "72", "boxed"),
        (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}", "boxed"),
        (r"\boxed{5} and \boxed{6", "5", "boxed"),
        (r"{ \boxed{\boxed{5}}", "5", "boxed"),
        (r"<answer>\boxed{5}</answer>", "5", "boxed"),
        (r"\boxed{2} or \boxed{3}", "2, 3", "boxed"),
        (r"\boxed{2}. Wait, that is wrong: \boxed{3}", "3", "boxed"),
        (r"\boxed{5}. The answer is 6.", "5, 6", "boxed"),
        (r"\boxed{5} in all. Final answer: the final answer is $6$.", "$6$", "answer_is"),
        ("<answer>3</answer> or <answer> 4\n</answer>", "3, 4", "answer_tag"),
        ("6*12 = 72\n#### 72", "72", "hashes"),
        ("<answer>The answer is 72.</answer>", "72", "answer_tag"),
        ("The answer is 3.5. That was easy in 2024.", "3.5", "answer_is"),
        ("The answer is 5. No, the answer is 6.", "6", "answer_is"),
        ("**Final Answer:** 42", "42", "answer_is"),
        ("Answer:\n\n12 apples", "12 apples", "answer_is"),
        ("3 + 4 = 7, so 7 apples", "7", "last_expression"),
        ("it costs $1,234.50, or so", "$1,234.50", "last_number"),
        ("from 9 to -3", "-3", "last_number"),
        ("9-3", "9-3", "whole_text"),
        ("about 50%", "about 50%", "whole_text"),
        ("<think>1</think> 2 </think> 3", "3", "whole_text"),
        ("so there are either 18 or 20", "18, 20", "last_number"),
        ("The correct choice is (B).", "(B)", "answer_is"),
        ("Because of that, it must be (B)", "B", "last_choice"),
        ("We find $x = 5$ or $x = 7$.", "x = 5, x = 7", "last_math"),
        ("Simplifying gives sqrt(2)/2.", "sqrt(2)/2", "last_expression"),
        ("sqrt(2)/2", "sqrt(2)/2", "whole_text"),
        ("She has 3 + 4 = 7 apples after 2 days.", "7", "last_expression"),
        ("The answer is not 5.", "not 5", "answer_is"),
        ("The answer is 9.<|im_end|>\n<|im_start|>user\nThe answer is 8.", "9", "answer_is"),
    ],
)
def test_the_final_answer(text: str, answer: str, rule: str) -> None:
    found = mathematical_answer(text)
    assert found is not None
    assert (found.text, found.rule) == (answer, rule)


@pytest.mark.parametrize(
    "text", ["", "I have really no idea at all", r"<think>\boxed{72}</think>", r"<think>so \boxed{72}", r"\boxed{ }"]
)
def test_no_final_answer(text: str) -> None:
    assert mathematical_answer(text) is None


def test_a_free_answer_may_be_any_text() -> None:
    assert free_answer("<think>?</think> red, green ").text == "red, green"  # type: ignore[union-attr]
    assert free_answer("<answer>the answer is no</answer>").text == "the answer is no"  # type: ignore[union-attr]
    assert free_answer("<think>?</think> ") is None


def test_scans_are_linear() -> None:
    start = time.perf_counter()
    assert boxed_answer("\\boxed{" * 100_000) is None
    assert mathematical_answer("<answer>" * 100_000) is None
    assert mathematical_answer("answer is " * 100_000 + "5") is not None
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("72", "72.0"), ("72", " +72. "), ("72", "$72$"), ("72", r"\$72.00"), ("72", r"\(72\)"), ("72", "７２"),
        ("1234", "1,234"), ("1234", "1{,}234"), ("1,234,567", r"1\,234\,567"), ("-3", "−3"), ("1/2", "0.5"),
        ("0.5", r"\frac12"), ("-1/2", r"-\dfrac{1}{2}"), ("3/2", "1 1/2"), ("3/2", r"1\frac{1}{2}"), ("1000", "1e3"),
        ("72", "72 dollars"), ("72", r"72\text{ apples}"), ("50%", r"50\%"), ("x^2", "x^2"), ("Paris", "paris"),
        ("Paris", r"\text{Paris}."), ("C", "(C)"), ("(C)", r"\text{C}"), ("No", "no"), ("北京", "北京"), (".5", "0.50"),
    ],
)  # fmt: skip
def test_equal_at_sight(gold: str, answer: str) -> None:
    assert judged(gold, answer) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("72", "73"), ("72", "-72"), ("1/3", "0.333333"), ("1820", "18 20"), ("1", "1 2/3"), ("38", "18 20"),
        ("18", "18 or 20"), ("18", "18 20"), ("18", "20 = 18"), ("3", "3 million"), ("3", "3 pi"), ("2", "2 1/2"),
        ("Paris", "Pairs"), ("no", "on"), ("C", "D"), ("Paris", "Paris or Rome"), ("52", "5²"), ("1234", "12,34"),
        ("5", "5 plus y"), ("123", "12 3"), ("0", ""),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("5", "five or six"), ("x=5", "y=5"),
    ],
)  # fmt: skip
def test_different_at_sight_or_left_open_but_never_equal(gold: str, answer: str) -> None:
    assert judged(gold, answer) is not True


def test_symbolic_answers_are_compared_by_meaning() -> None:
    cases = [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", 1.0),
        ("x^2+2x+1", "(x+1)^2", 1.0),
        ("5", "x = 5", 1.0),
        ("(1,2)", "(1, 2)", 1.0),
        ("(1,2)", "(2,1)", 0.0),
        (r"\sqrt{2}", "1.41421", 0.0),
        ("18", "18, 20", 0.0),
        ("18", r"\{18, 20\}", 0.0),
        ("2", r"\pm 2", 0.0),
        (r"2\pi", "6", 0.0),
        ("x+1", r"\frac{", 0.0),
        ("x+1", "__import__('os').system('true')", 0.0),
        ("1", r"\sin^2 x + \cos^2 x", 1.0),
        ("0", r"\sqrt{2} + \sqrt{3} - \sqrt{5 + 2\sqrt{6}}", 1.0),
        ("262537412640768744", r"e^{\pi\sqrt{163}}", 0.0),
        (r"\sqrt{2}", "9**9**9**9", 0.0),
    ]
    texts = [f"\\boxed{{{answer}}}" if answer != r"\frac{" else rf"<answer>{answer}</answer>" for _, answer, _ in cases]
    assert accuracy(texts, answer=[gold for gold, _, _ in cases]) == [right for _, _, right in cases]


def test_a_gold_answer_nobody_can_read_is_an_error_and_never_a_zero() -> None:
    golds = [None, "", "  ", True, [1, 2], {"a": 1}, r"\frac{", r"\int " + "x" * 3000]
    verdicts = accuracy([r"\boxed{x}"] * len(golds), answer=golds)
    assert [isinstance(verdict, Exception) for verdict in verdicts] == [True] * len(golds)
    assert "cannot be read" in str(verdicts[6])


@pytest.mark.parametrize(
    ("gold", "text"),
    [("6*12=<<6*12=72>>72\n#### 72", "72"), (r"so it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (0.5, "0.5"), (7, "7")],
)
def test_the_answer_in_a_gold_column(gold: object, text: str) -> None:
    assert gold_text(gold) == text


def test_another_column_can_hold_the_answer() -> None:
    assert accuracy(["It is 72."], column="solution", solution=["#### 72"], answer=["5"]) == [1.0]


def test_a_task_of_reasoning_gym_is_scored_by_its_own_scorer() -> None:
    countdown = {"question": "", "answer": "4 + 6 - 5", "metadata": {"numbers": [4, 5, 6], "target": 5}}
    leg = {"question": "", "answer": "14", "metadata": {}}
    completions = [
        "<think>?</think><answer>6 - 5 + 4</answer>",
        "<answer>5</answer>",
        "<answer>open('touched', 'w')</answer>",
        r"\boxed{14}",
        "<think>14",
    ]
    tasks = [{"task": "countdown", "entry": countdown}] * 3 + [{"task": "leg_counting", "entry": leg}] * 2
    assert accuracy(completions, tasks) == [1.0, 0.05, 0.0, 1.0, 0.0]


def test_a_number_is_noted_with_the_rule_that_found_the_answer() -> None:
    verdicts = accuracy([r"\boxed{5}", "<think>5", "The answer is sin(x)^2+cos(x)^2."], answer=["5", "5", "1"])
    assert [(verdict, verdict.note) for verdict in verdicts] == [(1.0, "boxed"), (0.0, "none"), (1.0, "answer_is")]  # type: ignore[union-attr]


def test_numbers_are_compared_exactly_unless_a_tolerance_says_otherwise() -> None:
    golds, texts = [r"\frac{1}{3}", r"\pi", "1000", "x+1"], ["0.333", "3.1416", "1001", "x+1.001"]
    assert accuracy(texts, answer=golds) == [0.0, 0.0, 0.0, 0.0]
    assert accuracy(texts, answer=golds, absolute_tolerance=0.01) == [1.0, 1.0, 0.0, 0.0]
    assert accuracy(texts, answer=golds, relative_tolerance=0.002) == [1.0, 1.0, 1.0, 0.0]
