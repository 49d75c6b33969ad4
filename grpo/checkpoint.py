"""Checkpoints of a stage: everything that going on needs, complete or absent, and checked before it is trusted."""

import hashlib
import json
import math
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo.files import atomic_folder
from grpo.types import UserError

LOWER_IS_BETTER = {"loss", "perplexity", "kl", "norm", "truncated", "clipped", "mismatch", "zero", "time", "memory"}
LOWER_IS_BETTER |= {"violation", "dead", "rerouted", "cross", "fallbacks", "brier", "calibration", "unscorable"}
"""Words in the names of figures whose best value is the lowest one."""


@dataclass(frozen=True)
class Checkpoint:
    """What a stage is after `step` steps. Tensors lie on the CPU once loaded.

    `optimizer` is the optimizer's state_dict; `reference` is empty where there is none; `rng` holds one `rng_state()`
    a process; `progress` is JSON: data position, byte offsets of the logs, ...; `figures` are those measured at
    this very step.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    reference: Mapping[str, Tensor]
    rng: Sequence[Mapping[str, Any]]
    progress: Mapping[str, Any]
    figures: Mapping[str, float]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-000010` and return it. Equal checkpoints are equal files. Raises DiskFull."""
    with atomic_folder(folder / f"step-{checkpoint.step:06d}") as unfinished:
        tied = _save_tensors(checkpoint.model, unfinished / "model.safetensors")
        tied_reference = _save_tensors(checkpoint.reference, unfinished / "reference.safetensors")
        with (unfinished / "optimizer.pt").open("wb") as file:
            torch.save(dict(checkpoint.optimizer), file)
        _write_json(unfinished / "rng.json", list(checkpoint.rng))
        state = {"step": checkpoint.step, "tied": tied, "tied_reference": tied_reference}
        state |= {"progress": dict(checkpoint.progress), "figures": dict(checkpoint.figures)}
        _write_json(unfinished / "state.json", state)
        _write_json(unfinished / "manifest.json", {path.name: _seal(path) for path in sorted(unfinished.iterdir())})
    return folder / f"step-{checkpoint.step:06d}"


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest sound checkpoint, or None, and a sentence about every unsound one that was passed over.

    An unsound one is moved aside to `broken-step-000010`, so that it is neither used nor lost.
    """
    notes: list[str] = []
    for path in reversed(_steps(folder)):
        damage = find_damage(path)
        if damage is None:
            return load_checkpoint(path), notes
        aside = _move_aside(path)
        notes.append(f"{path} is not whole ({damage}): it is now {aside.name}, and the one before it is used")
    if notes:
        notes.append(f"{folder} holds no whole checkpoint: the stage begins again")
    return None, notes


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder, which must be sound."""
    state = json.loads((path / "state.json").read_text())
    return Checkpoint(
        step=state["step"],
        model=_load_tensors(path / "model.safetensors", state["tied"]),
        optimizer=torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
        reference=_load_tensors(path / "reference.safetensors", state.get("tied_reference", {})),
        rng=json.loads((path / "rng.json").read_text()),
        progress=state["progress"],
        figures=state["figures"],
    )


def find_damage(path: Path) -> str | None:
    """Compare a checkpoint's files with its manifest: None, or the first difference in words."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, sealed in manifest.items():
            size = (path / name).stat().st_size
            if size != sealed["bytes"]:
                return f"{name} has {size} bytes instead of {sealed['bytes']}"
            if _seal(path / name) != sealed:
                return f"the content of {name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "manifest.json is unreadable"
    return None


def prune(folder: Path, keep_last: int, keep_best: str | None) -> None:
    """Delete all but the newest `keep_last` checkpoints and the one that is best in the figure `keep_best`.

    Of equally good ones the oldest stays. A checkpoint without the figure is not a candidate.
    """
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover)
    paths = _steps(folder)
    kept = set(paths[-keep_last:])
    if keep_best is not None:
        kept |= _best(paths, keep_best)
    for path in set(paths) - kept:
        # Renamed first: a deletion that is interrupted must not leave half a checkpoint under a checkpoint's name.
        shutil.rmtree(path.rename(path.with_name(f".tmp-{path.name}")))


def beats(folder: Path, figure: str, value: float) -> bool:
    """Whether a value is better than that of every checkpoint in a folder; one that is no finite number never is."""
    others = _measured(_steps(folder), figure).values()
    return math.isfinite(value) and all(_turned(figure, value) > other for other in others)


def require_figure(keep_best: str | None, known: Iterable[str]) -> None:
    """Raise UserError when `keep_best` is none of the figures a stage measures."""
    names = sorted(known)
    if keep_best is not None and keep_best not in names:
        raise UserError(
            f"keep_best must be a figure of metrics.jsonl, got {keep_best!r}: use one of {', '.join(names)}"
        )


def lower_is_better(figure: str) -> bool:
    """Say whether the best value of a figure is its lowest: `loss` yes, `reward/mean` no.

    What a reward or a source is called says nothing of it, as in `evaluation/source/time_intervals/accuracy`.
    """
    own = re.sub(r"^evaluation/(source/[^/]+/)?", "", figure)
    return not own.startswith(("reward/", "source/")) and not LOWER_IS_BETTER.isdisjoint(re.split("[/_]", own))


def rng_state() -> dict[str, Any]:
    """Return the state of every random generator of this process, as JSON."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [kind, [int(key) for key in keys], position, has_gauss, gauss],
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in devices],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set every random generator of this process. States of CUDA devices that are not here are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_unhex(state["torch"]))
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_unhex(cuda_state), device)


@contextmanager
def seeded(*place: int) -> Iterator[None]:
    """Have every random generator of this process begin as `place` says; afterwards they are as they were before."""
    before = rng_state()
    seed = int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:4], "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_rng(before)


def _best(paths: Sequence[Path], figure: str) -> set[Path]:
    """Return the checkpoint that is best in a figure, or none where none has it."""
    measured = _measured(paths, figure)
    return {max(measured, key=lambda path: measured[path])} if measured else set()


def _measured(paths: Sequence[Path], figure: str) -> dict[Path, float]:
    """The checkpoints at whose step a figure was measured, each with the value, turned so that the best is highest."""
    figures = {path: json.loads((path / "state.json").read_text())["figures"].get(figure) for path in paths}
    return {path: _turned(figure, v) for path, v in figures.items() if v is not None and math.isfinite(v)}


def _turned(figure: str, value: float) -> float:
    return -value if lower_is_better(figure) else value


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, str]:
    """Write tensors and return which names were left out because they are the same tensor: name -> name kept."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in sorted(tensors.items()):
        same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if same in first:
            tied[name] = first[same]
        else:
            first[same] = name
            kept[name] = _alone(tensor)
    save_file(kept, path)
    return tied


def _load_tensors(path: Path, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """Read tensors, and give those that were left out the names that `_save_tensors` returned."""
    kept = load_file(path)
    return kept | {name: kept[first] for name, first in tied.items()}


def _alone(tensor: Tensor) -> Tensor:
    """Return a contiguous CPU tensor that is all of its storage, which is what safetensors can write."""
    flat = tensor.detach().cpu().contiguous()
    return flat if flat.untyped_storage().nbytes() == flat.nbytes else flat.clone()


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _steps(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    numbers = {path: path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir()}
    return sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"broken-{path.name}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-again")
    return path.rename(aside)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content) + "\n")


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _unhex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
