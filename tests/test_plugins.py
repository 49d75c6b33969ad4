from pathlib import Path

import pytest

from grpo.plugins import load_object
from grpo.types import UserError

SOURCE = """\
from dataclasses import dataclass

@dataclass
class Count:
    calls: int = 0

count = Count()

def shout(text):
    return text.upper()
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(SOURCE)
    return path


def test_a_function_is_loaded_from_a_file_or_a_module(plugin: Path) -> None:
    assert load_object(f"{plugin}:shout")("ja") == "JA"
    assert load_object("pathlib:Path") is Path


def test_a_file_is_executed_once(plugin: Path) -> None:
    assert load_object(f"{plugin}:count") is load_object(f"{plugin}:count")


def test_a_broken_file_is_read_again_after_it_was_mended(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text("from nowhere_at_all import thing\n")
    with pytest.raises(UserError, match="importing it raised ModuleNotFoundError: No module named 'nowhere_at_all'"):
        load_object(f"{path}:thing")
    path.write_text("thing = 3\n")
    assert load_object(f"{path}:thing") == 3


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("shout", r"expected path/to/file\.py:name or package\.module:name"),
        ("{plugin}:shuot", "has no shuot: did you mean shout"),
        ("{plugin}:zzz", "define zzz there"),
        ("gone.py:shout", r"no file gone\.py"),
        ("no_such_package.part:shout", "no module named no_such_package: install its package"),
        ("json.no_such_part:shout", r"no module named json\.no_such_part"),
    ],
)
def test_a_wrong_reference_says_what_to_do(plugin: Path, reference: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_object(reference.format(plugin=plugin))
