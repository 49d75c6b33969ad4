"""Rejection sampling: one reason a candidate, nothing of an evaluation, and the same files after a kill."""

import json
import signal
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import train
from grpo.data import distinct, split
from grpo.decontamination import evaluation_index, overlap
from grpo.duplicates import KeptTexts
from grpo.problem_settings import ProblemSettings
from grpo.rejection_stage import RejectionStage
from grpo.sieve import Sieve, reasons
from grpo.sources import read_problems
from grpo.tasks.arithmetic import sums
from grpo.types import Completion, Finish, Group, Problem, Score, ScoredGroup

# --- the sieve, by hand -----------------------------------------------------------------------------------------------

PROBLEM = Problem("p", "What is three plus four?", {"answer": "7"})
QUESTION = "how many apples are left in the basket of the old farmer tonight"
THOUGHT = "three and four make seven because three and one is four and so on and so forth"


def stage(**changes: Any) -> RejectionStage:
    given = {"kind": "rejection", "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}, {"name": "format"}]}
    readable = {"language": "en", "identify": False, "paragraph_words": 40}
    return RejectionStage.model_validate(given | {"readable": readable, "max_per_problem": 2} | changes)


def sieve(settings: RejectionStage, prefill: str = "") -> Sieve:
    assert settings.near_duplicates is not None
    return Sieve(settings, {"": prefill}, evaluation_index([QUESTION], 10, 10), KeptTexts(settings.near_duplicates))


def group(*samples: tuple[str, float | None], finish: Finish = "stop") -> ScoredGroup:
    completions = tuple(Completion(text, (1,), (0.0,), finish, 0) for text, _ in samples)
    scores = tuple(Score(v, {"accuracy": v, "format": 1.0}, {"accuracy": "ok", "format": "ok"}) for _, v in samples)
    return ScoredGroup(Group(PROBLEM, (1,), completions), scores)


def test_every_candidate_has_one_reason_and_they_add_up() -> None:
    def told(thought: str) -> str:
        return f"<think>{thought}</think>It is 7."

    found = sieve(stage())
    candidates = [
        *found.sift(
            [
                group(
                    (told(THOUGHT), 1.0),
                    (told(THOUGHT), 0.0),
                    (told(THOUGHT), None),
                    ("It is 7.", 1.0),
                    (told("三加四 make 七"), 1.0),
                    (told("word " * 41), 1.0),
                    (told("so\n```\n3 + 4\n```"), 1.0),
                    (told(QUESTION), 1.0),
                    (told(THOUGHT + "!"), 1.0),
                    (told("count on from four by three, one at a time, and there it is"), 1.0),
                    (told("two fours are eight, and one less is what is asked for here"), 1.0),
                )
            ]
        ),
        *found.sift([group((told("cut"), 1.0), finish="length")]),
    ]
    assert [candidate.reason for candidate in candidates] == [
        *("kept", "reward/accuracy", "unscorable", "layout", "mixed_language", "long_paragraph", "code_block"),
        *("evaluation_overlap", "near_duplicate", "kept", "over_cap", "truncated"),
    ]
    assert {c.reason: c.detail for c in candidates if c.detail} == {
        "evaluation_overlap": "how many apples are left in the basket of the",
        "near_duplicate": "p/0",
    }
    figures = found.figures()
    assert figures["candidates"] == 12
    assert sum(count for name, count in figures.items() if name.startswith("reasons/")) == 12
    assert {name.removeprefix("reasons/") for name in figures} - {"candidates"} == set(reasons(stage()))


def test_what_is_written_down_has_the_prefill_and_may_lose_its_stop_text() -> None:
    layout = {"write": "<think>\n{reasoning}\n</think>\n{summary}"}
    settings = stage(stop=["\n\n", "</answer>"], keep_stop=False, layout=layout)
    (candidate,) = sieve(settings, prefill="<think>").sift([group((f"{THOUGHT}</think>It is 7.\n\n", 1.0))])
    assert candidate.text == f"<think>\n{THOUGHT}\n</think>\nIt is 7."


# --- a run on a tiny model --------------------------------------------------------------------------------------------

REJECTION: dict[str, Any] = {
    "kind": "rejection",
    "samples": 4,
    "limit": 24,
    "problems_per_chunk": 4,
    "max_new_tokens": 12,
    "stop": list(string.ascii_letters),  # of random bytes most come across one
    "rewards": [{"name": "own.py:even"}],
    "keep_if": {"even": 1.0},
    "max_per_problem": 1,
    "layout": None,
    "readable": {"language": None},
}
OWN = "def even(completion, completion_tokens):\n    return float(sum(completion.encode()) % 2 == 0)\n"
PLAIN = {"template": {"kind": "plain"}}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def leaves(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("candidates.jsonl", "data.jsonl")}


@pytest.fixture
def recipe(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "chat.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"hello {i}", "completion": f"hi {i}"}) for i in range(40))
    )

    def write(name: str = "tiny", **changes: Any) -> Path:
        learn = {"kind": "sft", "start": "base", "steps": 1, "examples_per_step": 4, "lr": 1e-3}
        learn |= {"problems": {"stage": "01-rejection"}}
        return write_recipe(name, stages=[REJECTION | changes, learn])

    return write


def test_a_stage_leaves_every_candidate_and_data_that_the_next_learns_from(recipe: Callable[..., Path]) -> None:
    mix = [{"problems": {"path": "chat.jsonl"}, "ratio": 0.5}]
    file = recipe(mix=mix)
    assert train([str(file)]) == 0
    folder = file.parent / "runs" / "tiny" / "01-rejection"
    candidates, data = lines(folder / "candidates.jsonl"), lines(folder / "data.jsonl")
    assert len(candidates) == 24 * 4
    last = lines(folder / "metrics.jsonl")[-1]
    assert last["candidates"] == 96
    counted = {name.removeprefix("reasons/"): n for name, n in last.items() if name.startswith("reasons/") and n}
    assert counted == Counter(candidate["reason"] for candidate in candidates)
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]

    kept = [row for row in data if row["source"] == "01-rejection"]
    chosen = [candidate for candidate in candidates if candidate["reason"] == "kept"]
    assert kept
    assert [(row["prompt"], row["completion"]) for row in kept] == [(c["prompt"], c["completion"]) for c in chosen]
    assert all(row["answer"] for row in kept)  # the problem's columns come along
    mixed = [row for row in data if row["source"] == "chat.jsonl"]
    assert len(mixed) == round(len(kept) / 2)
    assert not (folder / "rollouts").exists() or not list((folder / "rollouts").iterdir())
    assert (folder.parent / "02-sft" / "model").is_dir()


@pytest.mark.usefixtures("recipe")  # its files
def test_a_mixture_is_sampled_in_turns_each_source_in_its_own_way(write_recipe: Callable[..., Path]) -> None:
    """Its data is a source beside others for the next stage, with its template; the evaluation is of both parts."""
    terms = {name: {"size": 30, "terms": name, "max_value": 20} for name in (2, 3)}
    own = {"function": "grpo.tasks.arithmetic:sums"}
    two = {**own, "params": terms[2], "label": "two", "template": {"kind": "plain", "prefill": "2:"}}
    three = {**own, "params": terms[3], "label": "three", "template": {"kind": "plain", "prefill": "3:"}}
    sampled = REJECTION | {"problems": {"sources": [two, three]}, "limit": 6, "max_per_problem": 4}
    sources = [{"stage": "rejection", "template": {"kind": "plain"}}, {"path": "chat.jsonl"}]
    learned = {"kind": "sft", "start": "base", "steps": 1, "examples_per_step": 2, "lr": 1e-3}
    learned |= {"problems": {"sources": sources, "held_out": 0, "too_few": "wrap"}}
    asked = {"kind": "evaluate", "problems": [two, three], "part": "all", "limit": 2, "samples": 0, "accuracy": "even"}
    asked |= {"rewards": REJECTION["rewards"], "max_new_tokens": 4, "models": ["sft"]}
    file = write_recipe("both", stages=[sampled, learned, asked])
    assert train([str(file)]) == 0
    run = file.parent / "runs" / "both"
    candidates = lines(run / "01-rejection" / "candidates.jsonl")
    assert Counter(one["problem_id"].partition(":")[0] for one in candidates) == {"two": 12, "three": 12}
    begins = {"two": "2:", "three": "3:"}
    assert all(one["completion"].startswith(begins[one["problem_id"].partition(":")[0]]) for one in candidates)
    assert (run / "02-sft" / "model").is_dir()
    assert [row["model"] for row in lines(run / "03-evaluate" / "metrics.jsonl")] == ["02-sft"]
    assert train([str(file)]) == 0, "nothing that it was given has changed"


def test_nothing_kept_overlaps_an_evaluation(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation set repeats every second problem, and none of those is sampled."""
    prompts = [row["prompt"] for row in sums(size=200, terms=2, max_value=20)]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": "1"}) for p in prompts[::2]))
    file = recipe(decontaminate={"against": [{"path": "test.jsonl"}]})
    assert train([str(file), "--until", "01-rejection"]) == 0
    assert "problems that overlap evaluations are left out" in capsys.readouterr().out
    index = evaluation_index(prompts[::2], 10, 10)
    data = lines(tmp_path / "runs" / "tiny" / "01-rejection" / "data.jsonl")
    assert data
    assert [row for row in data if overlap(index, row["prompt"], row["completion"])] == []


def test_other_problems_of_one_name_are_an_evaluation(
    write_recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are sums of one function; what is asked are the first 20, which are left out of the 200 that are sampled."""
    (tmp_path / "own.py").write_text(OWN)
    params = {"terms": 2, "max_value": 20}
    asked = {"function": "grpo.tasks.arithmetic:sums", "params": {"size": 20} | params, "held_out": 0} | PLAIN
    evaluation = {"kind": "evaluate", "problems": asked, "part": "all", "limit": 2, "samples": 0, "max_new_tokens": 4}
    evaluation |= {"rewards": REJECTION["rewards"], "accuracy": "even"}
    file = write_recipe("named", stages=[REJECTION, evaluation])
    assert train([str(file), "--until", "01-rejection"]) == 0
    assert "problems that overlap evaluations are left out" in capsys.readouterr().out
    held = {row["prompt"] for row in sums(size=20, terms=2, max_value=20)}
    candidates = lines(file.parent / "runs" / "named" / "01-rejection" / "candidates.jsonl")
    assert candidates
    assert [row for row in candidates if row["prompt"] in held] == []


@pytest.mark.parametrize("text", ["null", r'"half a pair: \ud83d"'])
def test_an_example_without_text_is_found_before_anything_is_sampled(
    text: str, recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"prompt": "hello", "completion": "hi"}', f'{{"prompt": "and you?", "completion": {text}}}']
    (tmp_path / "chat.jsonl").write_text("\n".join(rows))
    assert train([str(recipe(mix=[{"problems": {"path": "chat.jsonl"}, "ratio": 0.5}]))]) == 2
    assert "expected text in column 'completion' of 'and you?', got" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny" / "01-rejection" / "rollouts").exists()


def test_examples_that_wrap_are_as_many_as_they_are_told_and_held_out_ones_stay_out(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    problems = {"path": "chat.jsonl", "too_few": "wrap", "held_out": 0.8}
    assert train([str(recipe(mix=[{"problems": problems, "ratio": 3}])), "--until", "01-rejection"]) == 0
    data = lines(tmp_path / "runs" / "tiny" / "01-rejection" / "data.jsonl")
    mixed = [row for row in data if row["source"] == "chat.jsonl"]
    assert len(mixed) == 3 * (len(data) - len(mixed))
    read = read_problems(ProblemSettings(path=str(tmp_path / "runs" / "tiny" / "01-rejection" / "data.jsonl")))
    assert len(distinct(read)) == len(data)
    train_part, held_out = split(read_problems(ProblemSettings(path=str(tmp_path / "chat.jsonl"))), 0.8)
    assert {row["prompt"] for row in mixed} == {problem.prompt for problem in train_part}
    assert held_out


def test_a_stage_that_keeps_nothing_says_why(recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert train([str(recipe(keep_if={"even": 2.0}, limit=4))]) == 1
    error = capsys.readouterr().err
    assert "none of 16 candidates is kept" in error
    assert "reward/even" in error


@pytest.mark.slow
def test_a_kill_while_it_samples_changes_no_byte(recipe: Callable[..., Path]) -> None:
    whole = recipe("whole")
    assert train([str(whole), "--until", "01-rejection"]) == 0
    expected = leaves(whole.parent / "runs" / "whole" / "01-rejection")

    torn = recipe("torn")
    folder = torn.parent / "runs" / "torn" / "01-rejection"
    command = [sys.executable, "-m", "grpo.cli", str(torn), "--until", "01-rejection"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "rollouts" / "step-000003.jsonl.gz").exists():
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "data.jsonl").exists()
    assert train([str(torn), "--until", "01-rejection"]) == 0
    assert leaves(folder) == expected
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
