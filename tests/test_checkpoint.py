"""A checkpoint holds everything, is never half, and training goes on from it bit for bit."""

import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo.checkpoint import (
    Checkpoint,
    beats,
    load_latest,
    lower_is_better,
    prune,
    require_figure,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from grpo.types import UserError


def make_training() -> tuple[nn.Sequential, torch.optim.AdamW]:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.5), nn.Linear(4, 5, bias=False))
    model[2].weight = model[0].weight
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        tokens = torch.tensor([random.randrange(5), int(np.random.randint(5)), int(torch.randint(5, ()))])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens).backward()
        optimizer.step()


def begin() -> tuple[nn.Sequential, torch.optim.AdamW]:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    return make_training()


def checkpoint_of(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, **figures: float) -> Checkpoint:
    progress = {"position": [3, "é"]}
    return Checkpoint(
        step, model.state_dict(), optimizer.state_dict(), {"w": torch.ones(2)}, [rng_state()], progress, figures
    )


def go_on(folder: Path, steps: int) -> Tensor:
    model, optimizer = make_training()
    checkpoint, _ = load_latest(folder)
    assert checkpoint is not None
    model.load_state_dict(checkpoint.model)
    optimizer.load_state_dict(dict(checkpoint.optimizer))
    restore_rng(checkpoint.rng[0])
    train(model, optimizer, steps)
    return model[0].weight.detach()


def save_steps(folder: Path, **figures_by_name: list[float]) -> None:
    model, optimizer = begin()
    for index in range(len(next(iter(figures_by_name.values())))):
        figures = {name: values[index] for name, values in figures_by_name.items()}
        save_checkpoint(folder, checkpoint_of(index + 1, model, optimizer, **figures))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_training_goes_on_bit_for_bit_in_a_new_process(tmp_path):
    model, optimizer = begin()
    train(model, optimizer, 3)
    save_checkpoint(tmp_path, checkpoint_of(3, model, optimizer))
    train(model, optimizer, 3)
    subprocess.run([sys.executable, __file__, str(tmp_path), str(tmp_path / "after.pt")], check=True)
    assert torch.equal(torch.load(tmp_path / "after.pt", weights_only=True), model[0].weight)


def test_saving_what_was_loaded_gives_the_same_files(tmp_path):
    model, optimizer = begin()
    train(model, optimizer, 2)
    first = save_checkpoint(tmp_path / "a", checkpoint_of(2, model, optimizer, loss=0.1))
    loaded, notes = load_latest(tmp_path / "a")
    assert loaded is not None
    assert notes == []
    again, optimizer_again = make_training()
    again.load_state_dict(loaded.model)
    optimizer_again.load_state_dict(dict(loaded.optimizer))
    restore_rng(loaded.rng[0])
    for second in (
        save_checkpoint(tmp_path / "b", loaded),
        save_checkpoint(tmp_path / "c", checkpoint_of(2, again, optimizer_again, loss=0.1)),
    ):
        assert names(first) == names(second)
        assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names(first))


def test_a_tied_tensor_is_stored_once_and_comes_back_under_both_names(tmp_path):
    model, optimizer = begin()
    path = save_checkpoint(tmp_path, checkpoint_of(1, model, optimizer))
    assert (path / "model.safetensors").stat().st_size < 2 * model[0].weight.nbytes + 80
    loaded, _ = load_latest(tmp_path)
    assert loaded is not None
    assert set(loaded.model) == {"0.weight", "2.weight"}
    assert torch.equal(loaded.model["2.weight"], model[2].weight)


def test_views_of_one_storage_are_stored_as_they_look(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    views = {"row": whole[0], "column": whole[:, 1], "turned": whole.T, "none": whole[:0]}
    save_checkpoint(tmp_path, Checkpoint(1, views, {}, {}, [], {}, {}))
    loaded, _ = load_latest(tmp_path)
    assert loaded is not None
    assert all(torch.equal(loaded.model[name], view) for name, view in views.items())
    assert loaded.reference == {}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "optimizer.pt").write_bytes(b"PK"), "optimizer.pt has 2 bytes instead of "),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text('{"mod'), "manifest.json is unreadable"),
        (lambda path: (path / "rng.json").unlink(), "rng.json is missing"),
        (
            lambda path: (path / "state.json").write_text((path / "state.json").read_text().replace("1", "2")),
            "the content of state.json has changed",
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(tmp_path, damage, said):
    save_steps(tmp_path, loss=[1.0, 1.0])
    damage(tmp_path / "step-000002")
    loaded, notes = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert len(notes) == 1
    assert said in notes[0]
    assert names(tmp_path) == ["broken-step-000002", "step-000001"]


def test_without_a_whole_checkpoint_the_stage_begins_again(tmp_path):
    assert load_latest(tmp_path / "absent") == (None, [])
    for _ in range(2):
        save_steps(tmp_path, loss=[1.0])
        (tmp_path / "step-000001" / "model.safetensors").write_bytes(b"")
        loaded, notes = load_latest(tmp_path)
        assert loaded is None
        assert "begins again" in notes[-1]
    assert names(tmp_path) == ["broken-step-000001", "broken-step-000001-again"]


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    save_steps(tmp_path / "a", loss=[3.0, 1.0, 1.0, float("nan"), 2.0, 4.0])
    prune(tmp_path / "a", keep_last=2, keep_best="loss")
    assert names(tmp_path / "a") == ["step-000002", "step-000005", "step-000006"]
    save_steps(tmp_path / "b", accuracy=[0.5, 0.9, 0.1])
    prune(tmp_path / "b", keep_last=1, keep_best="accuracy")
    assert names(tmp_path / "b") == ["step-000002", "step-000003"]
    prune(tmp_path / "b", keep_last=1, keep_best="unmeasured")
    assert names(tmp_path / "b") == ["step-000003"]


def test_a_figure_beats_the_checkpoints_that_have_it(tmp_path):
    assert beats(tmp_path, "loss", 9.0)
    save_steps(tmp_path, loss=[3.0, float("nan"), 2.0], accuracy=[0.5, 0.9, 0.1])
    assert [beats(tmp_path, "loss", value) for value in (1.9, 2.0, 2.5, float("nan"))] == [True, False, False, False]
    assert [beats(tmp_path, "accuracy", value) for value in (0.91, 0.9)] == [True, False]


def test_which_way_is_better():
    assert [lower_is_better(name) for name in ("loss", "kl", "eval/loss", "grad_norm", "distill/cross_entropy")] == [
        True
    ] * 5
    assert [lower_is_better(name) for name in ("reward/mean", "reward/kl", "eval/accuracy")] == [False] * 3
    lower = ("evaluation/brier", "evaluation/calibration_error", "evaluation/unscorable", "evaluation/source/a/loss")
    assert [lower_is_better(name) for name in lower] == [True] * 4
    called = ("evaluation/source/time_intervals/accuracy", "source/zero_shot/accuracy", "evaluation/reward/run_time")
    called += ("source/sums/time_bonus", "source/loss/mean")  # rewards of a source
    assert [lower_is_better(name) for name in called] == [False] * 5


def test_an_unknown_figure_is_refused_with_the_known_ones():
    require_figure(None, [])
    require_figure("kl", ["loss", "kl"])
    with pytest.raises(UserError, match=r"keep_best .* got 'reward': use one of loss, reward/mean"):
        require_figure("reward", ["reward/mean", "loss"])


def test_a_full_disk_while_saving_loses_nothing(tmp_path):
    """The kernel refuses files above 2000 bytes: the optimizer's state is larger, the model is not."""
    save_steps(tmp_path, loss=[1.0])
    program = (
        "import sys, torch; from pathlib import Path\n"
        "from grpo.checkpoint import Checkpoint, save_checkpoint\n"
        "from grpo.types import UserError\n"
        "state = {'exp_avg': torch.zeros(100_000)}\n"
        "try: save_checkpoint(Path(sys.argv[1]), Checkpoint(2, {'w': torch.ones(2)}, state, {}, [], {}, {}))\n"
        "except UserError as error: print(error)\n"
    )
    limited = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "step-000002: could not be written: file too large" in limited.stdout
    assert names(tmp_path) == ["step-000001"]
    loaded, notes = load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, notes) == (1, [])


if __name__ == "__main__":
    torch.save(go_on(Path(sys.argv[1]), 3), sys.argv[2])
