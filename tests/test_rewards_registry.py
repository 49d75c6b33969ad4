import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from grpo.reward_settings import RewardSettings
from grpo.rewards.registry import check_columns, load_reward, load_rewards
from grpo.rewards.score import score
from grpo.types import Completion, Group, Problem, UserError

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_reward.py"

SOURCE = """\
import asyncio
import os

class Judge:
    def __call__(self, completions, answer, scale=1.0):
        return [scale * (a in c) for c, a in zip(completions, answer)]

judge = Judge()
number = 3

def single(completion, answer, low=0, *, high): return high
def anything(prompts, completions, **kwargs): return [len(kwargs)] * len(completions)
def wrong(text): return 1.0
def positional(completion, /): return 1.0
def nothing(): return 1.0
def mean(completion): return 1.0
def accuracy(completion): return 1.0

async def later(completion):
    await asyncio.sleep(0.2)
    if completion == "bad":
        raise ValueError("no")
    return float(len(completion))

def level(completion, level=1): return level
async def level_later(completion, level=1): return level

async def later_batch(completions):
    await asyncio.sleep(0)
    return [float(len(c)) for c in completions]

class Counter:
    def __init__(self, step=1):
        self.step, self.seen = 0 + step, 0

    def __call__(self, completion):
        self.seen += self.step
        return self.seen

class Mute:
    pass

def forever(completion):
    while completion == "hang":
        pass
    if completion == "die":
        os._exit(3)
    if completion == "eat":
        bytes(8 * 2**30)
    return float(len(completion))

def forever_batch(completions, answer):
    while "hang" in completions:
        pass
    return [float(len(c)) for c in completions]

def where(completion):
    raise ValueError("cannot judge")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def groups(*texts: str, **columns: Any) -> list[Group]:
    completions = tuple(Completion(text, (1,), (0.0,), "stop", 0) for text in texts)
    return [Group(Problem("p", "prompt", columns), (1,), completions)]


def totals(settings: RewardSettings, *texts: str, **columns: Any) -> list[float | None]:
    scored = score(groups(*texts, **columns), [load_reward(settings)])
    assert scored.failures == []
    return [one.total for one in scored.groups[0].scores]


def test_built_ins_are_found_by_name_and_judge_texts() -> None:
    names = ["accuracy", "format", "language"]
    rewards = load_rewards([RewardSettings(name=name) for name in names])
    text = "<think>two and two</think><answer>4</answer>"
    scored = score(groups(text, answer="4"), rewards, conversational=True)
    assert scored.groups[0].scores[0].parts == {"accuracy": 1.0, "format": 1.0, "language": 1.0}


def test_options_and_weights_reach_the_reward(file: Path) -> None:
    overlong = RewardSettings(name="overlong", weight=2.0, options={"max_tokens": 1, "buffer": 1})
    assert totals(overlong, "x") == [-2.0]
    assert totals(RewardSettings(name=f"{file}:judge", options={"scale": 0.5}), "a4", "b", answer="4") == [0.5, 0.0]
    assert totals(RewardSettings(name=f"{file}:single", options={"high": 7}), "a", answer="4") == [7]
    assert totals(RewardSettings(name=f"{file}:anything", options={"any": 7}), "a", answer="4") == [5]


def test_a_users_reward_is_called_by_its_functions_name(file: Path) -> None:
    assert load_reward(RewardSettings(name=f"{file}:judge")).name == "judge"


def test_the_example_is_a_reward() -> None:
    texts = ["<think>2 + 2 is 4</think> 4", "<think>it is 5</think> 4", "<think></think> 4", "4"]
    assert totals(RewardSettings(name=f"{EXAMPLE}:thought_ends_on_answer"), *texts, answer="4") == [1.0, 0.0, 0.0, None]
    assert len(EXAMPLE.read_text().splitlines()) <= 8


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("acuracy", {}, "reward acuracy: no such reward: did you mean accuracy"),
        ("zzz", {}, "built-in are accuracy, format, language, length, overlong"),
        ("gone.py:judge", {}, "no file gone.py"),
        ("no_such_package:judge", {}, "no module named no_such_package"),
        ("{file}:jugde", {}, "did you mean judge"),
        ("{file}:number", {}, "expected a function, got int"),
        ("{file}:Counter", {"stepp": 2}, "has no option stepp: did you mean step"),
        ("{file}:Counter", {"step": "x"}, "making it raised TypeError"),
        ("{file}:Mute", {}, "its objects cannot be called: define __call__"),
        ("{file}:wrong", {}, r"expected a first parameter completion .* got \(text\): rename the parameter"),
        ("{file}:positional", {}, "expected a first parameter completion"),
        ("{file}:nothing", {}, r"got \(\)"),
        ("{file}:mean", {}, "rename the function, or give it a label"),
        ("{file}:judge", {"sacle": 1}, "has no option sacle: did you mean scale"),
        ("{file}:judge", {"completions": []}, "has no option completions"),
        ("accuracy", {"colum": "a"}, "has no option colum: did you mean column"),
        ("accuracy", {"seconds": -1}, r"options.seconds: Input should be greater than 0, got -1"),
        ("format", {"mode": "think"}, r"options.mode: Input should be 'think_answer' or 'think_text', got 'think'"),
        ("overlong", {"max_tokens": 2.5, "buffer": 1}, "options.max_tokens: Input should be a valid integer"),
    ],
)
def test_a_mistake_is_one_sentence(file: Path, name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_reward(RewardSettings(name=name.format(file=file), options=options))


def test_two_rewards_of_one_name_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="have the same name"):
        load_rewards([RewardSettings(name="accuracy"), RewardSettings(name=f"{file}:accuracy")])


@pytest.mark.parametrize(
    ("name", "options", "columns", "missing"),
    [
        ("accuracy", {}, {"solution"}, "answer or reasoning_gym"),
        ("accuracy", {"column": "gold"}, {"answer"}, "gold or reasoning_gym"),
        ("overlong", {"max_tokens": 5}, {"answer"}, "buffer"),
        ("{file}:judge", {}, {"solution"}, "answer"),
        ("{file}:single", {"high": 1}, set(), "answer"),
    ],
)
def test_a_missing_column_is_found_before_the_run(
    file: Path, name: str, options: dict[str, Any], columns: set[str], missing: str
) -> None:
    reward = load_reward(RewardSettings(name=name.format(file=file), options=options))
    with pytest.raises(UserError, match=f"needs {missing}, which is neither"):
        check_columns(reward, columns)


def test_a_column_is_no_option_of_a_built_in_reward() -> None:
    """Columns called as options are, such as countdown's `target`: the recipe alone sets those."""
    problem = Problem("p", "", {"mode": "think_text", "target": 5, "seconds": "x", "answer": "5"})
    names = ["accuracy", "format", "language"]
    completion = Completion("<think>It is five.</think><answer>5</answer>", (), (), "stop", 0)
    scored = score([Group(problem, (), (completion,))], load_rewards([RewardSettings(name=name) for name in names]))
    assert scored.groups[0].scores[0].parts == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    with pytest.raises(UserError, match="needs buffer"):
        check_columns(load_reward(RewardSettings(name="overlong", options={"max_tokens": 5})), {"buffer"})


def test_columns_that_suffice(file: Path) -> None:
    check_columns(load_reward(RewardSettings(name="accuracy")), {"reasoning_gym"})
    check_columns(load_reward(RewardSettings(name="accuracy", options={"column": "gold"})), {"gold"})
    check_columns(load_reward(RewardSettings(name="language")), set())
    check_columns(load_reward(RewardSettings(name=f"{file}:anything")), set())


def test_a_class_keeps_its_state_and_is_made_with_the_options(file: Path) -> None:
    reward = load_reward(RewardSettings(name=f"{file}:Counter", options={"step": 2}))
    assert reward.name == "Counter"
    for expected in ([2, 4], [6, 8]):
        scored = score(groups("a", "b"), [reward])
        assert [one.total for one in scored.groups[0].scores] == expected


def test_an_async_reward_judges_all_completions_at_once(file: Path) -> None:
    texts = [*("x" * n for n in range(1, 20)), "bad"]
    start = time.perf_counter()
    scored = score(groups(*texts), [load_reward(RewardSettings(name=f"{file}:later"))])
    assert time.perf_counter() - start < 2
    assert [one.total for one in scored.groups[0].scores] == [*map(float, range(1, 20)), None]
    (failure,) = scored.failures
    assert (failure.completion, failure.status) == ("bad", "error")
    assert "ValueError: no at " in failure.message
    assert totals(RewardSettings(name=f"{file}:later_batch"), "a", "bc") == [1.0, 2.0]


def test_an_async_reward_works_where_a_loop_already_runs(file: Path) -> None:
    async def notebook() -> list[float | None]:
        return totals(RewardSettings(name=f"{file}:later"), "a", "bc")

    assert asyncio.run(notebook()) == [1.0, 2.0]


def test_an_isolated_reward_can_hang_die_or_eat_and_costs_only_its_own_case(file: Path) -> None:
    reward = load_reward(RewardSettings(name=f"{file}:forever", isolate=True, seconds=1.0, memory_gb=2))
    scored = score(groups("a", "hang", "die", "eat", "bc"), [reward])
    assert [one.status["forever"] for one in scored.groups[0].scores] == ["ok", "timeout", "error", "timeout", "ok"]
    assert [one.total for one in scored.groups[0].scores] == [1.0, None, None, None, 2.0]


def test_an_isolated_batch_is_one_call(file: Path) -> None:
    settings = RewardSettings(name=f"{file}:forever_batch", isolate=True, seconds=1.0)
    assert totals(settings, "a", "bc", answer="4") == [1.0, 2.0]
    scored = score(groups("a", "hang", answer="4"), [load_reward(settings)])
    assert [one.status["forever_batch"] for one in scored.groups[0].scores] == ["timeout", "timeout"]


def test_an_isolated_class_keeps_its_options(file: Path) -> None:
    settings = RewardSettings(name=f"{file}:Counter", options={"step": 5}, isolate=True)
    assert totals(settings, "a")[0] in (5, 10)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_failure_names_the_file_the_line_and_the_completion(file: Path, isolate: bool) -> None:
    (failure,) = score(groups("xyz"), [load_reward(RewardSettings(name=f"{file}:where", isolate=isolate))]).failures
    line = SOURCE.splitlines().index('    raise ValueError("cannot judge")') + 1
    assert failure.message == f"ValueError: cannot judge at {file}:{line}"
    assert failure.completion == "xyz"


@pytest.mark.parametrize(("name", "isolate"), [("level", False), ("level", True), ("level_later", False)])
def test_an_option_wins_over_a_column_of_its_name(file: Path, name: str, isolate: bool) -> None:
    said = RewardSettings(name=f"{file}:{name}", options={"level": 3}, isolate=isolate)
    assert totals(said, "x", level=5) == [3.0]
    assert totals(RewardSettings(name=f"{file}:{name}", isolate=isolate), "x", level=5) == [5.0]


def test_isolate_is_for_functions_of_ones_own(file: Path) -> None:
    for name in ("format", f"{file}:later"):
        with pytest.raises(UserError, match="isolate is for functions of your own that are not async"):
            load_reward(RewardSettings(name=name, isolate=True))


def test_a_label_is_the_name_in_figures(file: Path) -> None:
    rewards = load_rewards([RewardSettings(name="accuracy"), RewardSettings(name=f"{file}:accuracy", label="mine")])
    assert [reward.name for reward in rewards] == ["accuracy", "mine"]
