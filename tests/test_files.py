"""A file or folder is complete or absent."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grpo.files import DiskFull, atomic_folder, full_disk_is_an_answer, passing_folder, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, content: str, then: Callable[[Path], None] = lambda file: None) -> None:
    with atomic_folder(folder) as unfinished:
        (unfinished / "weights").write_text(content)
        then(unfinished / "weights")


def interrupt(file: Path) -> None:
    raise KeyboardInterrupt


def write_to_a_full_disk(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/full")
    file.write_text("no room")


def save_tensors(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"exp_avg": torch.zeros(100_000)}, file)


def test_a_folder_appears_only_when_its_block_ends(tmp_path):
    with atomic_folder(tmp_path / "made" / "model") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text("1")
        assert not (tmp_path / "made" / "model").exists()
    assert (tmp_path / "made" / "model" / "deep" / "weights").read_text() == "1"
    assert names(tmp_path / "made") == ["model"]


def test_a_failed_block_leaves_the_older_folder(tmp_path):
    fill(tmp_path / "model", "first")
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "model", "second", then=interrupt)
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert names(tmp_path) == ["model"]


def test_a_newer_folder_replaces_the_older_one_whole(tmp_path):
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / name).touch()
    assert names(tmp_path / "model") == ["second"]
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from grpo.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model")], check=False)
    assert killed.returncode == -9
    assert names(tmp_path) == [".tmp-model"]
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "whole").touch()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["whole"]


def test_write_atomic_replaces_text_and_bytes(tmp_path):
    write_atomic(tmp_path / "a" / "note", "é")
    write_atomic(tmp_path / "a" / "note", b"\x00")
    assert (tmp_path / "a" / "note").read_bytes() == b"\x00"
    assert names(tmp_path / "a") == ["note"]


def test_a_full_disk_keeps_the_older_folder_and_says_what_to_do(tmp_path):
    fill(tmp_path / "model", "first")
    with pytest.raises(DiskFull, match=r"model: could not be written: the disk is full .* MB free.*same command again"):
        fill(tmp_path / "model", "second", then=write_to_a_full_disk)
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert names(tmp_path) == ["model"]


def test_torch_running_out_of_space_is_recognised(tmp_path):
    with pytest.raises(DiskFull), full_disk_is_an_answer(tmp_path / "optimizer.pt"):
        save_tensors(Path("/dev/full"))


def test_safetensors_running_out_of_space_is_recognised(tmp_path):
    program = (
        "import sys, torch; from pathlib import Path; from safetensors.torch import save_file\n"
        "from grpo.files import DiskFull, atomic_folder\n"
        "try:\n"
        "    with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "        save_file({'weight': torch.zeros(100_000)}, folder / 'model.safetensors')\n"
        "except DiskFull as error: print(error)\n"
    )
    limited = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "model: could not be written: file too large" in limited.stdout
    assert names(tmp_path) == []


def test_another_error_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), full_disk_is_an_answer(tmp_path):
        (tmp_path / "absent").read_text()


def test_what_a_killed_run_left_is_removed_by_that_run_alone(tmp_path):
    killed, others = (passing_folder("weights", tmp_path / run, tmp_path) for run in ("a", "b"))
    adapters = passing_folder("adapters", tmp_path / "a", tmp_path)
    (Path(killed.name) / "weights.safetensors").write_text("700 MB")
    again = passing_folder("weights", tmp_path / "a", tmp_path)
    assert names(tmp_path) == sorted(Path(folder.name).name for folder in (others, adapters, again))
    for folder in (killed, others, adapters, again):
        folder.cleanup()
    assert names(tmp_path) == []


def test_a_file_is_not_written_through_a_link_that_lies_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".tmp-report.html").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "report.html", "page")
    assert (tmp_path / "report.html").read_text() == "page"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"
