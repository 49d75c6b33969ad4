"""What is logged is JSON, is cut back to the checkpoint, and reaches the trackers."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from grpo.files import DiskFull
from grpo.metrics import Clock, RunLog, json_line, require_trackers, sample_rows, start_trackers
from grpo.types import Completion, Group, Problem, Score, ScoredGroup, UserError


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_step_is_one_line_of_figures_and_one_a_sample(tmp_path, accelerator):
    log = RunLog.open(tmp_path / "02-grpo", "02-grpo", accelerator, None)
    log.write(1, {"reward/mean": 0.25, "kl": math.nan}, [{"completion": "a"}, {"completion": "b"}])
    log.close()
    (figures,) = rows(tmp_path / "02-grpo" / "metrics.jsonl")
    assert figures.pop("time") > 1.7e9
    assert figures == {"step": 1, "stage": "02-grpo", "reward/mean": 0.25, "kl": None}
    assert rows(tmp_path / "02-grpo" / "samples.jsonl") == [{"completion": "a"}, {"completion": "b"}]


def test_resuming_cuts_the_logs_back_to_the_checkpoint(tmp_path, accelerator):
    log = RunLog.open(tmp_path, "s", accelerator, None)
    log.write(1, {"loss": 1.0}, [{"n": 1}])
    position = log.position()
    log.write(2, {"loss": 2.0}, [{"n": 2}])
    log.close()
    assert position["samples"] == len('{"n": 1}\n')
    log = RunLog.open(tmp_path, "s", accelerator, position)
    assert log.position() == position
    log.write(2, {"loss": 3.0}, [])
    log.close()
    assert [row["loss"] for row in rows(tmp_path / "metrics.jsonl")] == [1.0, 3.0]
    assert rows(tmp_path / "samples.jsonl") == [{"n": 1}]


def test_the_load_of_experts_is_a_log_of_its_own(tmp_path, accelerator):
    log = RunLog.open(tmp_path, "s", accelerator, None)
    log.write(0, {}, [])
    assert log.position()["experts"] == 0
    assert not (tmp_path / "experts.jsonl").exists()
    log.write(1, {}, [], torch.tensor([[3.0, 1.0], [0.0, 4.0]], dtype=torch.float64))
    position = log.position()
    log.write(2, {}, [], torch.ones(2, 2))
    log = RunLog.open(tmp_path, "s", accelerator, position)
    log.close()
    assert rows(tmp_path / "experts.jsonl") == [{"step": 1, "load": [[3, 1], [0, 4]]}]


def test_without_a_checkpoint_the_logs_begin_anew(tmp_path, accelerator):
    for loss in (1.0, 2.0):
        log = RunLog.open(tmp_path, "s", accelerator, None)
        log.write(1, {"loss": loss}, [])
        log.close()
    assert [row["loss"] for row in rows(tmp_path / "metrics.jsonl")] == [2.0]


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path, accelerator):
    (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: expected at least the 10 bytes .* got 3: .*--fresh"):
        RunLog.open(tmp_path, "s", accelerator, {"metrics": 10, "samples": 0})


def test_a_full_disk_is_an_answer(tmp_path):
    log = RunLog("s", {"metrics": Path("/dev/full")}, lambda figures, step: None)
    with pytest.raises(DiskFull, match="/dev/full: could not be written: the disk is full"):
        log.write(1, {"loss": 1.0}, [])


def test_a_label_stands_beside_the_figures(tmp_path, accelerator):
    log = RunLog.open(tmp_path, "03-evaluate", accelerator, None)
    log.write(1, {"accuracy": 0.5}, [], model="base")
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert (row["model"], row["accuracy"]) == ("base", 0.5)


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    log = RunLog("s", {}, lambda figures, step: None)
    log.write(1, {"loss": 1.0}, [{"n": 1}])
    assert log.position() == {}
    log.close()


def test_json_lines_hold_any_text():
    row = {"text": "中\u2028\n\ud800", "values": [math.inf, {"deep": -math.inf}], "count": 3, "right": True}
    line = json_line(row)
    assert "中".encode() in line
    assert line.count(b"\n") == 1
    assert json.loads(line) == row | {"values": [None, {"deep": None}]}


def test_sample_rows_describe_every_completion():
    group = Group(
        Problem("p7", "1+1=", {"answer": "2"}),
        (3, 4),
        (Completion("2", (5, 0), (-0.1, -0.2), "stop", 6), Completion("3", (6,), (-0.3,), "length", 6)),
    )
    scores = (Score(1.0, {"accuracy": 1.0}, {"accuracy": "ok"}), Score(None, {"accuracy": None}, {"accuracy": "error"}))
    first, second = sample_rows(
        9, [ScoredGroup(group, scores)], torch.tensor([[0.5, 0.0]]), [[None, "unscorable"]], lambda ids: f"<{ids}>"
    )
    assert first == {
        "step": 9,
        "problem_id": "p7",
        "prompt": "<(3, 4)>",
        "completion": "2",
        "tokens": 2,
        "rewards": {"accuracy": 1.0},
        "status": {"accuracy": "ok"},
        "notes": {},
        "total": 1.0,
        "advantage": 0.5,
        "weight_version": 6,
        "finish": "stop",
        "mask_reason": None,
    }
    assert (second["total"], second["status"], second["mask_reason"]) == (None, {"accuracy": "error"}, "unscorable")


def test_a_clock_adds_up_and_counts_a_phase_that_raises():
    clock = Clock()
    with clock("reward"):
        pass
    once = clock.seconds("reward")
    with pytest.raises(ValueError, match="lost"), clock("reward"):
        raise ValueError("lost")
    assert clock.figures() == {"time/reward": clock.seconds("reward")}
    assert clock.seconds("reward") > once > 0
    assert clock.seconds("rollout") == 0


HELD = """
import torch
from grpo.metrics import peak_memory_mb
before = peak_memory_mb()
held = torch.ones(int((before + 64) * 2**18), device="cuda" if torch.cuda.is_available() else "cpu")
del held
print(before, peak_memory_mb())
"""


def test_peak_memory_counts_what_was_held():
    """64 MiB more than the peak so far, in a process of its own: a peak does not go down again."""
    printed = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    before, peak = map(float, printed.split())
    assert before + 64 <= peak < 3 * (before + 64)


def test_tensorboard_gets_figures_and_settings(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=tmp_path)
    start_trackers(accelerator, "run", ["tensorboard"], {"seed": 0, "stages": [{"lr": 1e-6, "problems": None}]})
    for number, name in enumerate(("01-sft", "02-grpo")):
        log = RunLog.open(tmp_path / name, name, accelerator, None)
        log.write(1, {"loss": 0.5 + number}, [])
        log.write(2, {"loss": 0.25 + number}, [])
        log.close()
    for tracker in accelerator.trackers:
        tracker.finish()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("01-sft/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("02-grpo/loss")] == [(3, 1.5), (4, 1.25)]
    assert "stages.0.lr: 1.0e-06" in next((tmp_path / "run").glob("*/hparams.yml")).read_text()


def test_a_tracker_that_is_not_installed_is_named():
    with pytest.raises(UserError, match=r"trackers: no-such is not installed: pip install 'grpo-train\[no-such\]'"):
        require_trackers(["no-such"])


def test_the_first_groups_tell_the_log_probability_of_every_token():
    completions = (Completion("ab", (1, 2, 0), (-0.1234567, -2.0, 0.0), "stop", 6),)
    scored = ScoredGroup(Group(Problem("p7", "", {}), (3,), completions), (Score(1.0, {}, {}),))
    texts = {0: "<eos>", 1: "a", 2: "b", 3: "?"}
    advantages, reasons = torch.zeros(2, 1), [[None], [None]]
    told, silent = sample_rows(1, [scored, scored], advantages, reasons, lambda ids: "".join(texts[i] for i in ids), 1)
    assert (told["token_logprobs"], told["token_lengths"]) == ([-0.123, -2.0, 0.0], [1, 1, 0])
    assert "token_logprobs" not in silent
