"""`grpo eval`: figures that agree with a computation by hand, and a run that goes on where it was stopped."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo.benchmarks import benchmark_columns, source_of, sources_of
from grpo.cli import main
from grpo.eval_command import training_template
from grpo.evaluation_table import tables
from grpo.model_settings import TokenizerSettings
from grpo.policy import save_policy
from grpo.problem_settings import ProblemSettings
from grpo.recorded import Recorded, Wanted, figures_of, read_recorded, spreads
from grpo.rewards.accuracy import accuracy
from grpo.rewards.voting import votes
from grpo.scratch import InitSettings, make_policy
from grpo.sources import read_problems
from grpo.types import UserError

HERE = Path(__file__).parent
RECORDED = HERE / "recorded_sample.jsonl"
"""Four problems with gold answers 12, 1/2, 4 and 9, a greedy completion and four samples of each."""

BY_HAND = {
    # Greedy: right, wrong, right, right; Wilson's interval for 3 of 4.
    **{"accuracy": 0.75, "accuracy_low": 0.30064, "accuracy_high": 0.95441},
    # Right of four: 2, 1, 2, 4. Mean 0.5625; std 0.314577, of the mean 0.157288, times 1.959964 = 0.308279.
    **{"pass@1": 0.5625, "pass@1_low": 0.254221, "pass@1_high": 0.870779},
    # 1 - C(4 - c, 2) / C(4, 2) = 5/6, 1/2, 5/6, 1: mean 0.791667, std 0.209718.
    **{"pass@2": 0.791667, "pass@2_low": 0.586147, "pass@2_high": 0.997187},
    # The first two: 12, 12.0 right; 3, 6/2 wrong; 4, 5 a tie; 9, 9 right. The last two: 7 and nothing, wrong;
    # 0.5, 5 a tie; 5.0, 4 a tie; 9, 9 right. Means 1/2, 1/4, 1/2, 1.
    **{"cons@2": 0.5625, "cons@2_low": 0.254221, "cons@2_high": 0.870779},
    # 12 wins; 3 (with 6/2) wins, wrong; 4 and 5 tie; 9 wins: 1, 0, 1/2, 1; std 0.478714, half width 0.469131.
    **{"cons@4": 0.625, "cons@4_low": 0.155869, "cons@4_high": 1.0},
}


def test_figures_of_recorded_completions_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--from-samples", str(RECORDED), "--k", "1,2", "--cons", "2,4", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert {name: result["figures"][name] for name in BY_HAND} == pytest.approx(BY_HAND, abs=1e-5)
    assert main(["eval", "--from-samples", str(RECORDED), "--cons", "2,4"]) == 0
    printed = capsys.readouterr().out
    assert "0.562 [0.254, 0.871]" in printed
    assert "intervals: 95 %: Wilson's for greedy accuracy, normal over problems" in printed


def test_without_k_it_is_all_samples() -> None:
    figures = figures_of(read_recorded(RECORDED), Wanted([4], [4]))
    assert figures["pass@4"] == 1.0
    with pytest.raises(UserError, match="got n=4, c=2, k=5"):
        figures_of(read_recorded(RECORDED), Wanted([5], []))


def answer(problem: str, value: float | None, source: str = "") -> Recorded:
    rewards = {"accuracy": None, "liked": value}
    return Recorded("m", "t", source, problem, False, False, False, rewards, True, 3, False, None)


def test_the_spread_of_a_reward_by_hand() -> None:
    """Completions 1, 3, 2 and 6: std sqrt(3.5); problems' means 2 and 4: std sqrt(2), of their mean 1, times 1.96."""
    figures = spreads([answer("p", 1.0), answer("p", 3.0), answer("q", 2.0), answer("q", 6.0), answer("r", None)])
    by_hand = {"std": 1.870829, "low": 3 - 1.959964, "high": 3 + 1.959964}
    assert figures == pytest.approx({f"spread/liked/{name}": value for name, value in by_hand.items()})
    alone = spreads([answer("p", -7.0)])
    assert alone == {"spread/liked/std": 0.0, "spread/liked/low": -7.0, "spread/liked/high": -7.0}


def test_a_preference_has_its_interval_and_deviation_in_the_last_table_and_sources_one_of_their_own() -> None:
    answers = [answer("p", 1.0, "a"), answer("q", 3.0, "a"), answer("r", None, "b")]
    by_source, overall = tables([("m", "t", figures_of(answers, Wanted((), ())))], "accuracy", ["liked"]).values()
    shown = {"tokens": "3.0", "liked": "2.000 [0.040, 3.960]", "liked sd": "1.000"}
    assert overall == [{"model": "m", "problems": "3"} | shown]
    assert by_source[0] == {"model": "m", "problems of": "a", "problems": "2"} | shown
    assert by_source[1] == by_source[0] | {"problems of": "b", "problems": "1", "liked": "-", "liked sd": "-"}


def test_a_preference_that_an_earlier_version_measured_has_no_interval() -> None:
    figures = figures_of([answer("p", 1.0), answer("q", 3.0)], Wanted((), ()))
    without = {name: value for name, value in figures.items() if not name.startswith("spread/")}
    (line,) = tables([("m", "t", without)], "accuracy", ["liked"])[""]
    assert line == {"model": "m", "tokens": "3.0", "problems": "2", "liked": "2.000"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 1 expected a JSON object"),
        ('{"completion": "1", "answer": "1"}', "line 1 expected an object with problem_id or prompt"),
        ('{"prompt": "1", "completion": "1"}', "line 1 expected rewards, or completion and answer"),
        ('{"prompt": "1", "completion": "1", "answer": ""}', "could not be judged: gold answer is empty"),
        ("", "expected at least one completion, got none"),
        ('{"problem_id": "p", "rewards": {"right": 1.0}}', "expected a reward 'accuracy', .* got right: .*--accuracy"),
        ('{"problem_id": "p", "rewards": {"accuracy": "1"}}', "line 1 accuracy: expected a number, got '1'"),
        ('{"problem_id": "p", "rewards": {}, "tokens": []}', r"line 1 tokens: expected a number, got '\[\]'"),
        ('{"problem_id": "p", "rewards": {}, "status": 3}', "line 1 status: expected an object, got '3'"),
    ],
)
def test_a_file_that_says_too_little(line: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(line)
    with pytest.raises(UserError, match=expected):
        read_recorded(tmp_path / "s.jsonl")


def test_what_another_program_leaves_out_may_be_null(tmp_path: Path) -> None:
    row = {"problem_id": "p", "rewards": {"accuracy": 1.0}, "tokens": None, "status": None}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    (found,) = read_recorded(tmp_path / "s.jsonl")
    assert (found.right, found.applies, found.tokens) == (True, True, 0)


def test_a_null_without_a_status_does_not_apply(tmp_path: Path) -> None:
    rows = [{"problem_id": "p", "rewards": {"accuracy": value}} for value in (1.0, None)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(one.applies, one.right) for one in read_recorded(tmp_path / "s.jsonl")] == [(True, True), (False, False)]


def test_a_completion_that_takes_too_long_to_judge_costs_only_itself(tmp_path: Path) -> None:
    endless = r"\boxed{\sum_{n=1}^{10^{12}} \frac{1}{n}}"
    rows = [{"problem_id": str(i), "completion": text, "answer": "1"} for i, text in enumerate([endless, "1"])]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    slow, quick = read_recorded(tmp_path / "s.jsonl")
    assert (slow.applies, slow.right, slow.scorable) == (True, False, False)
    assert (quick.right, quick.scorable) == (True, True)


def test_answers_are_the_same_as_the_reward_compares_them() -> None:
    answers = ["1/2", "0.50", "x=3", "3", "$(x+1)^2$", "x^2+2x+1", None, "blue", "Blue."]
    assert votes(answers, [False] * 9) == [1, 1, 2, 2, 3, 3, None, 4, 4]
    # 15 and 15 cm^2 both equal the gold 15 cm^2.
    right = [verdict == 1.0 for verdict in accuracy(["\\boxed{15}", "\\boxed{15 cm^2}"], answer=["15 cm^2"] * 2)]
    assert votes(["15", "15 cm^2", "7", "7.0"], [*right, False, False]) == [0, 0, 1, 1]


# --- benchmarks -------------------------------------------------------------------------------------------------------

AIME = {"ID": "2024-I-1", "Problem": "Find x.", "Solution": "It is 204.", "Answer": 204}
MATH_500 = {
    **{"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2", "subject": "Algebra"},
    **{"level": 1, "unique_id": "test/algebra/1.json"},
}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (MATH_500, {"prompt": "problem", "answer": "answer"}),
        ({"problem": "p", "level": "Level 5", "solution": "$\\boxed{2}$"}, {"prompt": "problem", "answer": "solution"}),
        (AIME, {"prompt": "Problem", "answer": "Answer"}),
        (
            {"id": 60, "problem": "p", "answer": "204", "url": "u", "year": "2024"},
            {"prompt": "problem", "answer": "answer"},
        ),
        ({"question": "q", "answer": "70"}, {"prompt": "question", "answer": "answer"}),
        ({"prompt": "p", "reasoning_gym": {}}, {"prompt": "prompt"}),
    ],
)
def test_benchmarks_are_known_by_their_columns(row: dict[str, Any], columns: dict[str, str]) -> None:
    assert benchmark_columns(row, "f") == columns


def test_a_task_of_the_command_line(tmp_path: Path) -> None:
    gsm8k = source_of(str(HERE / "gsm8k_sample.jsonl"), 3)
    problems = read_problems(ProblemSettings.model_validate(gsm8k))
    assert len(problems) == 3
    assert accuracy(["It is 72."], answer=[problems[0].columns["answer"]]) == [1.0]
    assert source_of("chain_sum", None) == {"task": "chain_sum", "size": 100, "params": {"seed": 10**9}}
    (tmp_path / "x.jsonl").write_text('{"text": "hello"}\n')
    with pytest.raises(UserError, match=r"x.jsonl: expected a column of questions \(.*\), got text: rename them"):
        source_of(str(tmp_path / "x.jsonl"), None)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [tmp_path / folder / "test.jsonl" for folder in ("gsm8k", "my math")]
    for file in files:
        file.parent.mkdir()
        file.write_text('{"prompt": "1 + 1", "answer": "2"}')
    sources = sources_of([*map(str, files), "chain_sum"], None)
    assert ProblemSettings.model_validate({"sources": sources}).names == ["gsm8k-test", "my-math-test", "chain_sum"]


# --- a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny random model with a chat template."""
    config = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 2, "max_position_embeddings": 1024}
    policy = make_policy(InitSettings(architecture="llama", config=config, tokenizer=TokenizerSettings()), seed=0)
    policy.tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    save_policy(policy, tmp_path / "model")
    return tmp_path / "model"


def arguments(model: Path, out: Path, *more: str) -> list[str]:
    tasks = [str(HERE / "gsm8k_sample.jsonl"), "chain_sum"]
    short = ["--limit=2", "--samples=3", "--k=1,3", "--max-new-tokens=8", "--engine=transformers"]
    return ["eval", str(model), *tasks, *short, f"--out={out}", *more]


def without_time(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not name.startswith("time/")}


def test_a_model_is_measured_and_its_figures_can_be_made_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model, tmp_path / "evals", "--template=r1_zero", "--native", "--reward=format")) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "evals").glob("*/01-evaluate")
    results = json.loads((folder / "results.json").read_text())
    assert [result["template"] for result in results["results"]] == ["training", "native"]
    assert results["settings"]["top_p"] == 0.95
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * (2 + 2) * (1 + 3)
    assert samples[-1]["prompt"].startswith("[")
    assert not list(folder.glob("unfinished*"))
    header = next(line for line in printed.splitlines() if line.startswith("model "))
    columns = "model template problems of accuracy pass@1 pass@3 cons@3 tokens problems format"
    assert re.split(" +", header) == re.split(" ", columns)

    assert main(["eval", "--from-samples", str(folder / "samples.jsonl"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["results"]
    assert [one["figures"] for one in again] == [without_time(one["figures"]) for one in results["results"]]
    assert {"source/chain_sum/pass@1", "source/gsm8k_sample/cons@3_low"} <= again[0]["figures"].keys()

    assert main(arguments(model, tmp_path / "evals", "--template=r1_zero", "--native", "--reward=format")) == 0
    assert "chain_sum" in capsys.readouterr().out  # the table again, from what is there
    assert main(arguments(model, tmp_path / "evals", "--template=plain")) == 2
    assert "--fresh" in capsys.readouterr().err


def test_a_problem_too_long_for_one_template_is_asked_with_none(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt is a token a byte here; DeepSeek-R1-Zero's text around a question has more than 400 of them."""
    rows = [{"prompt": "1+1" + " " * spaces + "=", "answer": "2"} for spaces in (0, 400, 1)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", str(model), str(tmp_path / "sums.jsonl"), "--samples=0", "--max-new-tokens=4", "--limit=3"]
    command += ["--engine=transformers", "--template=r1_zero", "--native", f"--out={tmp_path}"]
    assert main([*command, "--max-prompt-tokens=700"]) == 0
    assert "1 problems fit in max_prompt_tokens with one template" in capsys.readouterr().out
    (file,) = tmp_path.glob("*/01-evaluate/samples.jsonl")
    asked = [(row["template"], row["problem_id"]) for row in map(json.loads, file.read_text().splitlines())]
    assert len(asked) == 4
    ids = [[problem for template, problem in asked if template == one] for one in ("training", "native")]
    assert ids[0] == ids[1]


def test_no_problem_that_fits_with_every_template_is_a_mistake(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The short one fits with the chat template alone, the long one with a file that does not show the question."""
    (tmp_path / "sums.jsonl").write_text(
        "".join(json.dumps({"prompt": "1+1" + " " * spaces + "=", "answer": "2"}) + "\n" for spaces in (0, 400))
    )
    (tmp_path / "odd.jinja").write_text("{% if prompt | length < 9 %}{{ 'x' * 300 }}{% endif %}?")
    command = ["eval", str(model), str(tmp_path / "sums.jsonl"), "--samples=0", "--max-new-tokens=4", "--native"]
    command += ["--engine=transformers", f"--template={tmp_path / 'odd.jinja'}", f"--out={tmp_path}"]
    assert main([*command, "--max-prompt-tokens=200"]) == 2
    assert "whose prompts fit with every template and tokenizer, got none: raise" in capsys.readouterr().err


def test_killed_and_run_again_it_goes_on(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from grpo.cli import main; sys.exit(main(sys.argv[1:]))"]
    settings = ("--template=plain", "--max-new-tokens=16", "--max-concurrent=1", "--limit=3")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, *arguments(model, killed, *settings)], stdout=subprocess.DEVNULL)
    unfinished: list[Path] = []
    while process.poll() is None and not (unfinished and unfinished[0].stat().st_size > 0):
        unfinished = list(killed.glob("*/01-evaluate/unfinished-1.jsonl"))
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = killed.glob("*/01-evaluate/unfinished-1.jsonl")
    kept = path.read_bytes()
    assert kept.count(b"\n") < 24
    path.write_bytes(kept + b'{"problem_id": "cut o')
    assert main(arguments(model, killed, *settings)) == 0
    assert main(arguments(model, whole, *settings)) == 0
    read = [next(folder.glob("*/01-evaluate/samples.jsonl")).read_bytes() for folder in (killed, whole)]
    assert read[0] == read[1]


def test_the_template_that_a_run_trained_with(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    (run / "02-grpo" / "model").mkdir(parents=True)
    write_recipe().rename(run / "recipe.yaml")
    assert training_template(run / "02-grpo" / "model") == {"kind": "plain", "prefill": ""}
    assert training_template(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["eval"], "expected MODEL TASK..., or --from-samples FILE"),
        (["eval", "m", "chain_sum", "--from-samples", "f"], "expected MODEL TASK..., or --from-samples FILE"),
        (["eval", "m", "chain_sum", "--k", "99"], "k must be at most samples"),
        (["eval", "m", "chain_sum", "--top-p", "0"], "top_p must be greater than 0"),
        (["eval", "m", "chain_sum", "--template", "training"], "is not the model of a stage in a run's folder"),
        (["eval", "m", "chain_somme"], "reasoning-gym has no such task: choose one of"),
        (["eval", "--from-samples", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_mistakes(given: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    assert expected in capsys.readouterr().err


def test_what_is_no_list_of_numbers_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "m", "chain_sum", "--k", "1,x"])
    assert stopped.value.code == 2
    assert "argument --k: expected whole numbers with commas, as in 1,16, got '1,x'" in capsys.readouterr().err
