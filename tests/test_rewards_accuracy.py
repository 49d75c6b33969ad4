import time
from pathlib import Path
from typing import Any

import pytest

from grpo.rewards.accuracy import accuracy, gold_text
from grpo.rewards.answers.judge import judged
from grpo.rewards.extraction import boxed_answer, free_answer, mathematical_answer
from grpo.rewards.gym import literal, parsed
from grpo.tasks.gym import gym_rows

EVALUATING = [
    "basic_arithmetic", "binary_matrix", "bitwise_arithmetic", "countdown", "intermediate_integration", "n_queens",
    "number_sorting", "polynomial_multiplication", "simple_integration", "spiral_matrix", "string_insertion",
]  # fmt: skip
"""Tasks whose modules call eval or sympy's parse_expr."""


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
    assert accuracy(completions, tasks) == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert accuracy(completions, tasks, partial=True) == [
        1.0,
        0.05,
        0.01,
        1.0,
        0.0,
    ]  # what the task gives for what it cannot read


@pytest.mark.parametrize(
    ("task", "entry", "right", "wrong"),
    [
        ("time_intervals", {"answer": "05:12", "metadata": {"task_type": "time"}}, "05:12", "05:13"),
        ("spell_backward", {"answer": "abcdef", "metadata": {}}, "abcdef", "abcdefxyz"),
        ("spell_backward", {"answer": "Integral", "metadata": {}}, "Integral", "Integra"),
        ("game_of_life_halting", {"answer": "False", "metadata": {}}, "False", "True"),
        ("puzzle24", {"answer": "10*(8 - 5) - 6", "metadata": {"numbers": [8, 5, 10, 6]}}, "(8-5)*10-6", "1*2*3*4"),
        ("complex_arithmetic", {"answer": "1 + 2i", "metadata": {"result": [1, 2]}}, "1 + 2i", "nan"),
        (
            "number_sorting",
            {"answer": "['1.5', '3.0']", "metadata": {"direction": "ascending"}},
            '["1.5", "3"]',
            '["2.5", "3"]',
        ),
        (
            "number_sorting",
            {"answer": "['1.5', '3.0']", "metadata": {"direction": "ascending"}},
            "['1.5', '3.0']",
            "[NaN, NaN]",
        ),
        ("word_sorting", {"answer": "a, b", "metadata": {"sorted_words": ["a", "b"]}}, "a, b", "a, b, c"),
        ("prime_factorization", {"answer": "2 × 3", "metadata": {"number": 6}}, "2 × 3", "2 x 3, I think"),
        ("arc_agi", {"answer": "1 2", "metadata": {"input": [[2, 1]], "output": [[1, 2]]}}, "1 2", "2 1"),
    ],
)
def test_scorers_give_nothing_for_what_is_no_answer(task: str, entry: dict[str, Any], right: str, wrong: str) -> None:
    problem = {"task": task, "entry": {"question": "", **entry}}
    assert accuracy([f"<answer>{right}</answer>", f"<answer>{wrong}</answer>"], [problem] * 2) == [1.0, 0.0]


def test_a_task_is_scored_with_its_parameters() -> None:
    """With the usual three decimals 0.124 is 0.123456; a ladder of five letters is in no usual list of words."""
    (row,) = gym_rows("decimal_arithmetic", 1, {"max_num_decimal_places": 6, "precision": 8, "seed": 1})
    entry = {**row["reasoning_gym"]["entry"], "answer": "0.123456"}
    problem = {**row["reasoning_gym"], "entry": entry}
    said = ["<answer>0.123456</answer>", "<answer>0.124</answer>"]
    assert accuracy(said, [problem] * 2) == [1.0, 0.0]
    (row,) = gym_rows("word_ladder", 1, {"min_word_length": 5, "max_word_length": 5, "seed": 1})
    assert accuracy([f"<answer>{row['answer']}</answer>"], [row["reasoning_gym"]]) == [1.0]
    (error,) = accuracy([f"<answer>{row['answer']}</answer>"], [{**row["reasoning_gym"], "params": {}}])
    assert "word_ladder cannot score its problem's own answer: KeyError" in str(error)


def test_rounding_as_the_question_says_is_right() -> None:
    """polynomial_equations says to round down to four decimals; its answer is rounded to the nearest."""
    task = {"task": "polynomial_equations", "entry": {"question": "", "answer": "0.3774", "metadata": {}}}
    assert accuracy(["<answer>0.3773</answer>", "<answer>0.3770</answer>"], [task, task]) == [1.0, 0.0]


def test_part_of_a_score_for_a_wrong_answer_counts_only_where_asked_for() -> None:
    """chain_sum gives len("4") / len("-4") for -4 where 4 is right; 4.0 is 4 to it."""
    tasks = [{"task": "chain_sum", "entry": {"question": "9 - 5 =", "answer": "4"}}] * 4
    completions = [f"<answer>{said}</answer>" for said in ("4", "-4", "14", "4.0")]
    assert accuracy(completions, tasks) == [1.0, 0.0, 0.0, 1.0]
    assert accuracy(completions, tasks, partial=True) == [1.0, 0.5, 0.5, 1.0]


def renamed(file: str) -> str:
    """Code in the clothes of elementary functions: numbers that chr turns into text, and eval by another name."""
    spelled = "+".join(f"sin({ord(char)})" for char in f"open('{file}','w')")
    return f"[exp:=eval,sin:=chr,exp({spelled})]"


ATTACKS = [
    "eval\\\n('1')", "[eval #\n('1')]", "().\\u005f\\u005fclass", "'' .format (1)", "{0: eval}[0]('1')", "'a'('b')",
    "open('touched','w')", "__import__('os').system('touch touched')", "x if open else y", "f'{open}'",
    renamed("touched"), "[sin(0) for exp in [eval] for sin in [chr] for log in [exp(sin(49))]]",
    "2**(1<<99999)", "ｅval('1')",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_scorer_evaluates_runs_no_code(attack: str) -> None:
    for harmless in (parsed, literal):
        with pytest.raises((ValueError, SyntaxError)):
            harmless(attack)


def test_what_a_scorer_evaluates_is_arithmetic_and_literals() -> None:
    assert literal("['a', 'b']") == ["a", "b"]
    assert literal("((0x3a << 1) - 3) & 0xff") == (58 * 2 - 3) & 255
    assert str(parsed("sin(x)**2 + 3*x**2/2 - pi")) == "3*x**2/2 + sin(x)**2 - pi"
    assert str(parsed("x", local_dict={"x": 3})) == "3"


@pytest.mark.parametrize("task", [*EVALUATING, "puzzle24"])
def test_no_answer_and_no_entry_runs_code(task: str, tmp_path: Path) -> None:
    code = renamed(f"{tmp_path}/touched")
    (row,) = gym_rows(task, 1, {"seed": 3})
    problem = row["reasoning_gym"]
    poisoned = {**problem, "entry": _with_code(problem["entry"], code)}
    answers = [f"\\boxed{{{code}}}", f"<answer>{code}</answer>", f"<answer>{row['answer']}</answer>"]
    assert accuracy(answers, [problem, problem, poisoned])[:2] == [0.0, 0.0]
    assert list(tmp_path.iterdir()) == []


def _with_code(value: Any, code: str) -> Any:
    """An entry with code in place of every text."""
    if isinstance(value, dict):
        return {key: part if key == "direction" else _with_code(part, code) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_code(part, code) for part in value]
    return code if isinstance(value, str) else value


@pytest.mark.parametrize(
    "column", [5, {"task": "chain_sum"}, {"task": 3, "entry": {}}, {"task": "a", "entry": {}, "params": 1}]
)
def test_a_column_of_another_shape_is_an_error_of_its_completion(column: Any) -> None:
    fine = {"task": "chain_sum", "entry": {"question": "", "answer": "4"}}
    wrong, right = accuracy(["4", "<answer>4</answer>"], [column, fine])
    assert "expected a task's name and entry" in str(wrong)
    assert right == 1.0


@pytest.mark.parametrize(
    "attack",
    [r"\boxed{1" + ",000" * 1500 + "}", "\\boxed{72_፩}", r"\boxed{A" + " " * 4000 + "1}", "9" * 9000],
)
def test_an_answer_that_cannot_be_read_is_wrong_and_costs_no_other(attack: str) -> None:
    assert accuracy([attack, "72"], answer=["72", "72"]) == [0.0, 1.0]


def test_arithmetic_on_huge_numbers_ends() -> None:
    """It runs in this process, which nothing kills."""
    power = r"(\frac{2^{1700}x}{3^{1062}}+\frac{2^{1700}y}{5^{708}}+\frac{2^{1700}z}{7^{586}})^{20}"
    assert judged("72", power) in (None, False)
    assert judged(r"(x+y)^{20}", r"(y+x)^{20}") is True


@pytest.mark.parametrize("task", EVALUATING)
def test_scorers_that_evaluate_take_their_own_answers(task: str) -> None:
    """What their tasks make is no more than may be evaluated."""
    rows = list(gym_rows(task, 5, {"seed": 3}))
    texts = [f"<answer>{row['answer']}</answer>" for row in rows]
    solved = [0.0 if "Integral(" in text else 1.0 for text in texts]  # its derivative would always be right
    assert accuracy(texts, [row["reasoning_gym"] for row in rows], seconds=30) == solved


def test_a_chain_of_approximations_is_one_answer() -> None:
    guesses = r"\boxed{" + r" \sim ".join(map(str, range(31))) + "}"
    assert accuracy([guesses] * 3, answer=["0", "12", "30"]) == [0.0, 0.0, 1.0]
    rounded = r"\boxed{x = \frac{10}{3} \approx 3.33}"
    assert accuracy([rounded] * 3, answer=[r"\frac{10}{3}", "3.33", "3.4"]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("LISTEN", "SILENT", 0),
        ("ABD", "B, A and D", 1),
        ("BADC", "ABCD", 0),
        ("J. K. Rowling", "J. R. R. Tolkien", 0),
        ("E. coli", "E. faecalis", 0),
        ("B. Paris", "B. Paris, in France", 1),
        ("C) $12$", "C. 12.0", 1),
        ("A", "(A) or (B)", 0),
        ("A", "(A) the first", 1),
        ("No", "NO", 1),
        ("no", "No.", 1),
        ("NO", "ON", 0),
        (r"2 \text{ for even } n, 3 \text{ for odd } n", "2", 0),
        (r"2 \text{ for even } n", "2", 1),
        (r"\frac{10000}{3}", "10 000/3", 1),
        (r"\frac{5}{2}", "2 1/2", 1),
    ],
)
def test_what_looks_like_another_answer(gold: str, answer: str, right: float) -> None:
    assert accuracy([rf"\boxed{{{answer}}}"], answer=[gold]) == [right]


@pytest.mark.parametrize(
    ("completion", "gold"),
    [
        (r"\boxed{(1,2)}. So the answer is $(1, 2)$.", "(1,2)"),
        (r"\boxed{2,3} So the final answer is \boxed{2, 3}", "2,3"),
        ("She sold 72.\n#### Final Answer\nThe answer is 72.", "72"),
        ("#### 72\n\nDone.", "72"),
        ("The answer for part (a) is 5.", "5"),
    ],
)
def test_an_answer_that_is_said_again_is_one_answer(completion: str, gold: str) -> None:
    assert accuracy([completion], answer=[gold]) == [1.0]


def test_white_space_costs_no_time() -> None:
    """Three runs of white space that share 3,000 blanks would be tried in 10^10 ways."""
    begin = time.perf_counter()
    assert accuracy(["The answer for" + " " * 3000 + "x"], answer=["5"]) == [0.0]
    assert accuracy(["The answer" + "\n" * 3000 + "x"], answer=["5"]) == [0.0]
    assert time.perf_counter() - begin < 5


def test_a_gold_answer_of_sentences_is_an_error() -> None:
    solution = "Natalia sold 24 clips in May. Altogether she sold 72 of them."
    (verdict,) = accuracy(["The answer is 72."], answer=[solution])
    assert "gold answer is sentences" in str(verdict)
    assert accuracy(["It is 72."], answer=[solution + "\n#### 72"]) == [1.0]
    assert accuracy(["<answer>Mrs. Smith</answer>"], answer=["Mrs. Smith"]) == [1.0]


def test_a_number_is_noted_with_the_rule_that_found_the_answer() -> None:
    verdicts = accuracy([r"\boxed{5}", "<think>5", "The answer is sin(x)^2+cos(x)^2."], answer=["5", "5", "1"])
    assert [(verdict, verdict.note) for verdict in verdicts] == [(1.0, "boxed"), (0.0, "none"), (1.0, "answer_is")]  # type: ignore[union-attr]


def test_numbers_are_compared_exactly_unless_a_tolerance_says_otherwise() -> None:
    golds, texts = [r"\frac{1}{3}", r"\pi", "1000", "x+1"], ["0.333", "3.1416", "1001", "x+1.001"]
    assert accuracy(texts, answer=golds) == [0.0, 0.0, 0.0, 0.0]
    assert accuracy(texts, answer=golds, absolute_tolerance=0.01) == [1.0, 1.0, 0.0, 0.0]
    assert accuracy(texts, answer=golds, relative_tolerance=0.002) == [1.0, 1.0, 1.0, 0.0]
