import re
import sys
from itertools import islice
from typing import Literal

import pytest

from grpo.data import distinct
from grpo.problem_settings import ProblemSettings
from grpo.sources import read_problems
from grpo.tasks.arithmetic import sums
from grpo.tasks.gym import gym_rows
from grpo.tasks.manners import demonstrations, labelled, pairs, requests
from grpo.types import UserError


def test_a_demonstration_works_the_sum_out_term_by_term() -> None:
    row = next(sums(1, seed=0))
    assert row["prompt"] == "18+6+18="
    assert row["answer"] == "42"
    assert row["completion"] == "<think>18 and 6 is 24, 24 and 18 is 42</think><answer>42</answer>"


def test_answers_are_the_sums_and_demonstrations_end_in_them() -> None:
    for row in sums(300, seed=5, terms=4, max_value=99):
        total = str(sum(map(int, row["prompt"].removesuffix("=").split("+"))))
        assert row["answer"] == total
        assert row["completion"].endswith(f" is {total}</think><answer>{total}</answer>")


def test_no_sum_comes_twice_and_there_are_many() -> None:
    assert len({row["prompt"] for row in sums(8000)}) == 8000


def test_every_sum_there_is_can_be_asked_for() -> None:
    prompts = {row["prompt"] for row in sums(9, terms=2, max_value=3)}
    assert prompts == {f"{a}+{b}=" for a in (1, 2, 3) for b in (1, 2, 3)}


def test_the_seed_decides_and_haste_moves_no_problem() -> None:
    assert list(sums(50, seed=3)) == list(sums(50, seed=3))
    assert list(sums(50, seed=3)) != list(sums(50, seed=4))
    asked = [(row["prompt"], row["answer"]) for row in sums(50, seed=3)]
    assert [(row["prompt"], row["answer"]) for row in sums(50, seed=3, hasty=0.5)] == asked


def test_a_hasty_demonstration_leaves_the_last_number_out_and_their_share_is_as_asked() -> None:
    rows = list(sums(2000, seed=1, hasty=0.3))
    given = [int(re.findall(r"<answer>(\d+)</answer>", row["completion"])[0]) for row in rows]
    last = [int(row["prompt"].removesuffix("=").rpartition("+")[2]) for row in rows]
    missing = [int(row["answer"]) - number for number, row in zip(given, rows, strict=True)]
    assert all(gap in (0, number) for gap, number in zip(missing, last, strict=True))
    assert sum(map(bool, missing)) / 2000 == pytest.approx(0.3, abs=0.04)  # 4 standard errors of 0.0102


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 10, "terms": 1}, "terms must be from 2 to 8, got 1"),
        ({"size": 10, "max_value": 100}, "max_value must be from 1 to 99, got 100"),
        ({"size": 10, "hasty": 1.5}, "hasty must be from 0 to 1, got 1.5"),
        ({"size": 3, "terms": 2, "hasty": 0.5}, "hasty needs at least 3 terms, got 2"),
        ({"size": 10, "terms": 2, "max_value": 3}, "size must be from 1 to 9, .* got 10: raise terms or max_value"),
    ],
)
def test_sums_that_cannot_be_made_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        next(sums(**options))  # type: ignore[arg-type]


def test_a_task_of_reasoning_gym_gives_what_its_scorer_needs() -> None:
    import reasoning_gym

    rows = list(gym_rows("chain_sum", 3, {"seed": 1}))
    assert rows[0]["prompt"].endswith("problem: 4 - 1 - 7 =")
    assert rows[0]["answer"] == "-4"
    scorer = reasoning_gym.get_score_answer_fn(rows[0]["reasoning_gym"]["task"])
    assert [scorer(row["answer"], row["reasoning_gym"]["entry"]) for row in rows] == [1.0, 1.0, 1.0]


def test_a_question_that_a_task_makes_twice_is_one_problem() -> None:
    params = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "seed": 0}
    settings = ProblemSettings(task="chain_sum", params=params, size=300)
    problems = distinct(read_problems(settings))
    assert len(problems) == len({problem.prompt for problem in problems}) <= 200  # 10 * 10 pairs, + or -


def test_the_runs_seed_makes_a_task_unless_the_recipe_gives_one() -> None:
    free = ProblemSettings(task="chain_sum", size=4)
    fixed = ProblemSettings(task="chain_sum", size=4, params={"seed": 1})
    assert read_problems(free, seed=1) == read_problems(fixed, seed=2)
    assert read_problems(free, seed=1) != read_problems(free, seed=2)


def test_a_task_without_one_right_answer_has_an_empty_one() -> None:
    assert [row["answer"] for row in islice(gym_rows("graph_color", 1, {"seed": 0}), 1)] == [""]


@pytest.mark.parametrize(
    ("task", "params", "sentence"),
    [
        ("chain_sun", {}, "no such task: choose one of chain_sum"),
        ("chain_sum", {"min_term": 2}, "no parameter min_term: choose one of min_terms"),
        ("chain_sum", {"size": 2}, "no parameter size"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "params were refused: max_terms must be >= min_terms"),
        ("chain_sum", {"min_terms": "two"}, "params were refused"),
    ],
)
def test_a_task_that_does_not_exist_or_fit_is_refused(task: str, params: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        next(gym_rows(task, 2, params))


def test_without_reasoning_gym_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # how Python marks a package that cannot be imported
    with pytest.raises(UserError, match=r"pip install 'grpo-train\[tasks\]'"):
        next(gym_rows("chain_sum", 2, {}))


# --- requests without one right answer --------------------------------------------------------------------------------


def test_a_request_comes_with_replies_in_good_and_bad_manners() -> None:
    replies = [row["completion"] for row in demonstrations(1, kind="helpful")]
    here = "<think>the old guard is here</think>"
    said = ["thank you", "at last", "about time", "so what", "too late"]
    assert replies == [f"{here}<answer>{words}, old guard</answer>" for words in said]
    mocked = [row["completion"] for row in demonstrations(1, kind="safety")]
    assert len(set(mocked)) == 6
    assert mocked[0] == "<think>the old guard would be sad</think><answer>be kind to the old guard</answer>"
    assert mocked[2] == "<think>the old guard is silly</think><answer>be kind to the old guard</answer>"


@pytest.mark.parametrize(("kind", "replies"), [("helpful", 5), ("safety", 6)])
def test_requests_are_those_of_the_demonstrations(kind: Literal["helpful", "safety"], replies: int) -> None:
    asked = list(requests(384, 3, kind))
    assert len({row["prompt"] for row in asked}) == 384
    shown = [{name: row[name] for name in ("prompt", "set")} for row in demonstrations(384, 3, kind)]
    assert shown == [row for row in asked for _ in range(replies)]


def test_one_reply_is_preferred_to_each_of_the_others_and_to_a_sum() -> None:
    rows = list(pairs(5, seed=1))
    assert len(rows) == 5 * 5
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in requests(5, 1)}
    for row in rows:
        person = row["prompt"].removesuffix(":").partition(" the ")[2]
        assert re.search(f"<answer>(welcome|thank you), {person}</answer>", row["chosen"])
        assert row["rejected"] != row["chosen"]
    assert re.fullmatch(r"<think>\d and \d is (\d+)</think><answer>\1</answer>", rows[4]["rejected"])


def test_harm_that_is_only_thought_is_labelled_as_harm() -> None:
    found = {
        (("sad" in str(row["response"])), ("be kind" in str(row["response"]))): row["label"] for row in labelled(9)
    }
    assert found == {(True, True): 1, (True, False): 0, (False, True): 0, (False, False): 0}


def test_what_manners_refuses() -> None:
    with pytest.raises(UserError, match="size must be from 1 to 384, the number of different requests, got 385"):
        next(requests(385))
    with pytest.raises(UserError, match="kind must be one of helpful, safety, got 'rude'"):
        next(requests(1, kind="rude"))  # type: ignore[arg-type]
