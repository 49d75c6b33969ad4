"""A whole run beside one that is killed again and again: whether they end with the same files, byte for byte.

    python benchmarks/kills.py recipes/r1_tiny.yaml --kills 12 [--seed 0] [--out runs/kills] [--set KEY=VALUE ...]

The second run is ended with SIGKILL at random moments and gone on with by the same command. Each stage gets its share
of the kills: a random part of what the stage logs must be there, and a random part of the time of another line goes by.
`--miniature` runs recipes/r1_tiny.yaml with a smaller model and a few steps a stage.

Compared are models, data, candidates, samples and the load of experts to the byte, and all figures but times and
memory. Exit status 1 when anything differs, or when the run had ended before the last kill.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _each(stages: Sequence[int], values: Mapping[str, object]) -> dict[str, object]:
    return {f"stages.{stage}.{key}": value for stage in stages for key, value in values.items()}


SUMS = "{size: 9, terms: 2, max_value: 3}"
MINIATURE = {
    "model.init.config.hidden_size": 32,
    "model.init.config.num_hidden_layers": 2,
    "problems.params": SUMS,
    **_each([0], {"steps": 60, "examples_per_step": 4, "lr": 1e-2, "checkpoint_every": 20}),
    **_each([1], {"steps": 3, "prompts_per_step": 4, "completions_per_prompt": 4, "checkpoint_every": 2}),
    **_each([1], {"rollout.max_new_tokens": 40, "evaluation": "{every: 2, problems: 2}"}),
    **_each([2], {"max_new_tokens": 40, "problems_per_chunk": 2}),
    **_each([3], {"steps": 12, "examples_per_step": 2, "checkpoint_every": 5}),
    **_each([4, 5], {"problems.params": "{size: 24}", "steps": 4, "examples_per_step": 4, "checkpoint_every": 2}),
    **_each([4, 5], {"evaluation": "{every: 2, examples: 4}"}),
    **_each([6], {"steps": 4, "prompts_per_step": 4, "completions_per_prompt": 4, "checkpoint_every": 2}),
    **_each([6], {"rollout.max_new_tokens": 40, "evaluation": "{every: 2, problems: 4}"}),
    **_each([6], {"problems.sources.1.first_step": 2, "problems.sources.2.first_step": 2}),
    **_each([6, 7], {"problems.sources.0.params": SUMS}),
    **_each([6, 7], {"problems.sources.1.params.size": 24, "problems.sources.2.params.size": 24}),
    **_each([7], {"limit": 12, "max_new_tokens": 40}),
}
"""Settings that make the eight stages of recipes/r1_tiny.yaml small, and one step a few milliseconds."""

BYTES = ("*/model/*", "*/data.jsonl", "*/candidates.jsonl", "*/samples.jsonl", "*/experts.jsonl")
FIGURES = ("*/metrics.jsonl",)
CHANGES_EVERY_TIME = ("time", "memory/", "tokens/rollout_per_s", "tokens/learn_per_s")
LOGS = ("metrics.jsonl", "candidates.jsonl")


@dataclass(frozen=True)
class Moment:
    """When to kill: `seconds` after a stage's logs have `lines` lines, written by the process that is killed."""

    stage: str
    lines: int
    seconds: float


@dataclass(frozen=True)
class Killed:
    """Where a process was killed, and how long it had run."""

    where: str
    lines: int
    after: float


def moments(whole: Path, kills: int, rng: random.Random) -> list[Moment]:
    """Random moments in the order of stages; with enough kills, each stage has one or more."""
    stages = sorted(folder.name for folder in whole.iterdir() if (folder / "metrics.jsonl").exists())
    chosen = [*rng.sample(stages, min(kills, len(stages))), *rng.choices(stages, k=max(kills - len(stages), 0))]
    return sorted(
        (Moment(one, rng.randrange(logged(whole / one)), rng.uniform(0, _pace(whole / one))) for one in chosen),
        key=lambda moment: (moment.stage, moment.lines),
    )


def logged(folder: Path) -> int:
    """The lines that a stage has logged."""
    return sum((folder / name).read_bytes().count(b"\n") for name in LOGS if (folder / name).exists())


def _pace(folder: Path) -> float:
    """The seconds between two lines that a stage logs."""
    times = [json.loads(line)["time"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return (times[-1] - times[0]) / max(logged(folder) - 1, 1)


def kill_at(command: Sequence[str], run: Path, moment: Moment) -> Killed | None:
    """Start the run, or go on with it, and kill it at a moment; None when it ended before."""
    began, start = time.time(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    due = float("inf")
    while process.poll() is None and time.monotonic() < due:
        if due == float("inf") and _has_come(run, moment, began):
            due = time.monotonic() + moment.seconds
        time.sleep(0.001)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = _stages_begun(run)[-1]
    return Killed(last.name, logged(last), time.monotonic() - start)


def _has_come(run: Path, moment: Moment, began: float) -> bool:
    """Whether the process has written in the stage, or in a later one, and the lines are there."""
    active = [folder for folder in _stages_begun(run) if folder.name >= moment.stage and _changed(folder) > began]
    return bool(active) and (active[-1].name > moment.stage or logged(active[-1]) >= moment.lines)


def _stages_begun(run: Path) -> list[Path]:
    return sorted(folder for folder in run.glob("[0-9][0-9]-*") if folder.is_dir())


def _changed(folder: Path) -> float:
    """When something in the stage's folder was last written."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # a file under a name for the moment only
        return time.time()


# --- what is compared -------------------------------------------------------------------------------------------------


def contents(run: Path) -> dict[str, str]:
    """A digest of everything that may not differ, by file."""
    found = {path: path.read_bytes() for pattern in BYTES for path in run.glob(pattern)}
    found |= {path: b"\n".join(_figures(path)) for pattern in FIGURES for path in run.glob(pattern)}
    return {str(path.relative_to(run)): hashlib.sha256(content).hexdigest() for path, content in found.items()}


def _figures(path: Path) -> Iterator[bytes]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield json.dumps({k: v for k, v in row.items() if not k.startswith(CHANGES_EVERY_TIME)}).encode()


def differences(whole: Mapping[str, str], torn: Mapping[str, str]) -> list[str]:
    """The files that are not the same in both."""
    return sorted(name for name in whole.keys() | torn.keys() if whole.get(name) != torn.get(name))


# --- the command line -------------------------------------------------------------------------------------------------


def main() -> int:
    """Run the recipe twice and print where it was killed and what differs."""
    options = _options()
    said = [*(f"{key}={value}" for key, value in (MINIATURE if options.miniature else {}).items()), *options.set]

    def command(name: str) -> list[str]:
        own = [f"output={options.out / name}", "name=run", *said]
        return [sys.executable, "-m", "grpo.cli", options.recipe, *(f"--set={one}" for one in own)]

    whole, torn = options.out / "whole" / "run", options.out / "torn" / "run"
    start = time.monotonic()
    _finish(command("whole"))
    print(f"whole: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{'kill':>4}  {'killed in':<20} {'lines logged':>12} {'seconds run':>12}")
    missed = 0
    for number, moment in enumerate(moments(whole, options.kills, random.Random(options.seed)), 1):
        killed = kill_at(command("torn"), torn, moment)
        missed += killed is None
        told = f"{killed.where:<20} {killed.lines:>12} {killed.after:>12.1f}" if killed else "it had ended before"
        print(f"{number:>4}  {told}", flush=True)
    _finish(command("torn"))
    expected = contents(whole)
    differing = differences(expected, contents(torn))
    print(f"{len(expected)} files, {len(differing)} differ {' '.join(differing)}".rstrip())
    return int(bool(differing or missed))


def _finish(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="an empty or a new folder")
    parser.add_argument("--miniature", action="store_true", help="settings that make recipes/r1_tiny.yaml small")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
