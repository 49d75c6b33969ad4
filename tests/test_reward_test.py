import json
from pathlib import Path
from typing import Any

import pytest

from grpo.cli import main
from grpo.rewards.hostile import attacks

SOURCE = """\
def half(completion): return 0.5
def gullible(completion, answer): return float(answer in completion)
def runs(completion):
    return float(bool(eval(completion))) if completion.startswith("__import__") else 0.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def cases(tmp_path: Path, *entries: dict[str, Any] | str) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return path


def test_agreement_mismatches_statuses_and_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cases(
        tmp_path,
        {"completion": r"\boxed{0.5}", "answer": "1/2", "expected": True, "stratum": "a"},
        {"completion": r"\boxed{0.6}", "answer": "1/2", "expected": False, "stratum": "a"},
        "",
        {"completion": r"\boxed{0.7}", "answer": "1/2", "expected": 1, "stratum": "b"},
        {"completion": r"\boxed{0.7}", "answer": "", "expected": False, "stratum": "b"},
    )
    assert main(["reward-test", "accuracy", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"line 4: expected 1, got 0 by boxed: '\\boxed{0.7}'"
    assert lines[1].startswith("line 5: expected false, got error")
    assert lines[2] == "by stratum: a 2/2, b 0/2"
    assert lines[3] == "agreement 2/4 (50.00%), false positives 0, false negatives 0"
    assert lines[4] == "status: ok 3, error 1"
    assert lines[5].startswith("latency: p50 ")


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cases(tmp_path, {"completion": "<think>a</think> b", "expected": True})
    assert main(["reward-test", "format", str(path), "--json", "--option", "mode=think_text"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["agreement"], figures["mismatches"], figures["status"]) == (1.0, [], {"ok": 1})
    assert set(figures["seconds"]) == {"p50", "p90", "p99", "max"}


def test_a_template_that_begins_the_completion_is_accounted_for(tmp_path: Path) -> None:
    path = cases(tmp_path, {"completion": "2+2</think><answer>4</answer>", "expected": 1})
    assert main(["reward-test", "format", str(path)]) == 1
    assert main(["reward-test", "format", str(path), "--prefill", "<think>"]) == 0


def test_not_applicable_is_expected_with_null(tmp_path: Path) -> None:
    path = cases(tmp_path, {"completion": "12 + 3", "expected": None}, {"completion": "words", "expected": 1.0})
    assert main(["reward-test", "language", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["accuracy"], "expected a file of cases, or --hostile in its place"),
        (["accuracy", "{missing}"], "cannot be read"),
        (["accuracy", "{bad}"], r"line 1: expected a JSON object, got '{'"),
        (["accuracy", "{bare}"], "line 1: expected `expected` to be a number, true, false or null"),
        (["accuracy", "{empty}"], "expected cases, one JSON object a line, got none"),
        (["accuracy", "{unlabelled}"], "needs answer or reasoning_gym"),
        (["acuracy", "{bare}"], "did you mean accuracy"),
        (["accuracy", "{bare}", "--option", "seconds"], "expected KEY=VALUE, got seconds"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "bad": "{",
        "bare": '{"completion": "a"}',
        "empty": "\n",
        "unlabelled": '{"completion": "a", "expected": 1}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in (*texts, "missing")}
    filled = [paths.get(argument.strip("{}"), argument) for argument in arguments]
    assert main(["reward-test", *filled]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1


def test_at_least_a_hundred_attacks_fail_on_the_accuracy_reward(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(attacks("mark")) >= 100
    assert len({attack.name for attack in attacks("mark")}) == len(attacks("mark"))
    assert main(["reward-test", "--hostile", "accuracy"]) == 0
    last, statuses = capsys.readouterr().out.splitlines()[-2:]
    assert "0 rewarded, 0 over 5 s" in last
    assert "code executed: no" in last
    assert "error" not in statuses


def test_attacks_show_what_a_weak_reward_gives(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward-test", "--hostile", f"{file}:gullible"]) == 1
    assert "code executed: no" in capsys.readouterr().out
    assert main(["reward-test", "--hostile", f"{file}:runs"]) == 1
    assert "code executed: yes" in capsys.readouterr().out
