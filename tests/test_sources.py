import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from grpo.problem_settings import ProblemSettings
from grpo.sources import problem_id, read_problems
from grpo.types import UserError

GSM8K_FILE = Path(__file__).parent / "gsm8k_sample.jsonl"
"""The first five problems of GSM8K's training part (MIT licence)."""

GSM8K = [json.loads(line) for line in GSM8K_FILE.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def sentence(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_problems(ProblemSettings(**settings))
    return str(caught.value)


AWKWARD = [
    {"prompt": 'Say "ja", then\nnoch einmal: größer, 数学 🙂', "answer": "007"},
    {"prompt": "{braces} and \u2028 a line separator", "answer": ""},
]


def test_three_kinds_of_file_hold_the_same_problems(tmp_path: Path) -> None:
    files = [
        write_jsonl(tmp_path / "data.jsonl", AWKWARD),
        write_csv(tmp_path / "data.csv", AWKWARD),
        write_parquet(tmp_path / "data.parquet", AWKWARD),
    ]
    first, *others = [read_problems(ProblemSettings(path=str(file))) for file in files]
    assert [(problem.prompt, problem.columns) for problem in first] == [
        (row["prompt"], {"answer": row["answer"]}) for row in AWKWARD
    ]
    assert others == [first, first]


def test_nested_columns_are_kept(tmp_path: Path) -> None:
    row = {"prompt": "p", "answer": {"value": [1, 2.5], "unit": None}, "tags": ["a", "b"]}
    kept = {key: row[key] for key in ("answer", "tags")}
    for file in (write_jsonl(tmp_path / "data.jsonl", [row]), write_parquet(tmp_path / "data.parquet", [row])):
        assert read_problems(ProblemSettings(path=str(file)))[0].columns == kept


def test_gsm8k_needs_one_line_of_mapping() -> None:
    problems = read_problems(ProblemSettings(path=str(GSM8K_FILE), columns={"prompt": "question"}))
    assert len(problems) == 5
    assert [problem.prompt for problem in problems] == [row["question"] for row in GSM8K]
    assert [problem.columns for problem in problems] == GSM8K


def test_a_mapped_name_stands_beside_the_datas_own_and_wins(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"prompt": "p", "answer": "long text", "final": "4"}])
    (problem,) = read_problems(ProblemSettings(path=str(path), columns={"answer": "final"}))
    assert problem.columns == {"answer": "4", "final": "4"}


def test_size_limits_what_is_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"prompt": str(i)} for i in range(5)])
    assert [problem.prompt for problem in read_problems(ProblemSettings(path=str(path), size=2))] == ["0", "1"]


def test_where_chooses_rows_and_size_counts_those(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"prompt": str(i), "kind": "ab"[i % 2], "n": i} for i in range(9)])
    one_kind = ProblemSettings(path=str(path), size=2, columns={"set": "kind"}, where={"set": "b"})
    assert [problem.prompt for problem in read_problems(one_kind)] == ["1", "3"]
    assert "expected at least one problem where {'n': [10, 11]}" in sentence(path=str(path), where={"n": [10, 11]})


def test_an_id_is_the_same_for_ever_and_knows_prompt_and_answer_only() -> None:
    assert problem_id("1+1=", {"answer": "2"}) == "f5ee968b8893e73e"
    assert problem_id("1+1=", {"answer": "2", "completion": "two"}) == problem_id("1+1=", {"answer": "2"})
    assert len({problem_id("a", {}), problem_id("b", {}), problem_id("a", {"answer": "1"})}) == 3


def test_a_folder_of_data_files_is_a_data_set_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", GSM8K)
    settings = ProblemSettings(dataset=str(tmp_path / "set"), columns={"prompt": "question"})
    assert [problem.prompt for problem in read_problems(settings)] == [row["question"] for row in GSM8K]


def test_a_data_set_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = sentence(dataset="nobody/nothing", split="test")
    assert said.startswith("data set nobody/nothing, config default, split test: ")
    assert said.endswith("correct the name, or download the data and give it as path")


FUNCTION = """\
def count(upto, first=1):
    for number in range(first, upto + 1):
        yield {"prompt": f"{number}+{number}=", "answer": str(2 * number)}

def words(): return ["one", "two"]
def number(): return 3
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "problems.py"
    path.write_text(FUNCTION)
    return path


def test_a_function_of_a_file_or_module_makes_problems(program: Path) -> None:
    problems = read_problems(ProblemSettings(function=f"{program}:count", params={"upto": 3}))
    assert [(problem.prompt, problem.columns["answer"]) for problem in problems] == [
        ("1+1=", "2"),
        ("2+2=", "4"),
        ("3+3=", "6"),
    ]
    sums = ProblemSettings(function="grpo.tasks.arithmetic:sums", params={"size": 7})
    assert len(read_problems(sums)) == 7


def test_a_function_that_does_not_fit_is_refused(program: Path) -> None:
    assert "params do not fit count: missing a required argument: 'upto'" in sentence(function=f"{program}:count")
    assert "row 1 expected a mapping of column names, got str" in sentence(function=f"{program}:words")
    assert "expected mappings, one a problem, got int" in sentence(function=f"{program}:number")
    assert "expected a function, got str" in sentence(function="string:digits")


def test_a_missing_column_names_the_place_and_the_columns_there(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", GSM8K)
    assert sentence(path=str(path)) == (
        f"{path}: line 1: expected a column 'prompt', got question, answer: "
        "name the right one in the recipe, as in columns: {prompt: <its name in the data>}"
    )
    assert "expected a column 'gold'" in sentence(path=str(path), columns={"prompt": "question", "answer": "gold"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2 expected a JSON object: Expecting value"),
        ("data.jsonl", '["a"]\n', "line 1 expected a JSON object, got list"),
        ("data.jsonl", "[" * 100_000, "line 1 expected a JSON object: maximum recursion depth"),
        ("data.jsonl", '{"prompt": [{"role": "user", "content": "a"}]}', "column 'prompt' expected text, got list"),
        ("data.jsonl", '{"prompt": null}', "line 1: column 'prompt' expected text, got NoneType"),
        ("data.jsonl", '{"prompt": ""}', "expected text, got '': correct or remove the row"),
        ("data.jsonl", '{"prompt": "\\ud800"}', r"expected text, got '\ud800'"),
        ("data.jsonl", "\n", "expected at least one problem, got none"),
        ("data.jsonl", b'{"prompt": "\xff"}', "expected UTF-8 text, got invalid start byte"),
        ("data.csv", "prompt,answer\na,1\nb\n", "line 3 expected 2 values, as in the header, got 1"),
        ("data.csv", 'prompt\n"a\n', "is not valid CSV: unexpected end of data"),
        ("data.csv", "", "expected at least one problem, got none"),
        ("data.parquet", "PAR1", "not a valid Parquet file"),
        ("data.txt", "a", "expected a file that ends in .jsonl, .parquet, .csv"),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in sentence(path=str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert sentence(path=str(tmp_path / "gone.jsonl")).startswith(f"{tmp_path}/gone.jsonl: no such file")


def test_what_a_function_raises_is_said_with_its_line(tmp_path):
    (tmp_path / "late.py").write_text("def rows():\n    yield {'prompt': 'a'}\n    yield {'prompt': 1 / 0}\n")
    with pytest.raises(UserError, match=r"raised ZeroDivisionError: division by zero at .*late\.py:3"):
        read_problems(ProblemSettings(function=f"{tmp_path / 'late.py'}:rows"))
