"""`grpo doctor RUN`: what was found in a run, for a person or a program."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from grpo.doctor.chart import ENOUGH
from grpo.doctor.finding import Finding
from grpo.doctor.reader import examine, is_long_enough

TOO_SHORT = f"no stage of training has come to {ENOUGH} steps, too few to find anything in"


def doctor(run: Path, as_json: bool, strict: bool) -> int:
    """Print the findings of a run. Returns the exit status: 1 where it is strict and there are any."""
    found = examine(run)
    print(json.dumps([asdict(one) for one in found], indent=2) if as_json else as_text(run, found))
    return 1 if strict and found else 0


def as_text(run: Path, found: Sequence[Finding]) -> str:
    """A paragraph for each finding."""
    if not found:
        return f"{run}: nothing found" if is_long_enough(run) else f"{run}: {TOO_SHORT}"
    return "\n".join(
        f"{one.stage}: {one.name}, steps {one.first_step} to {one.last_step}\n"
        f"  seen    {one.evidence}\n"
        f"  change  {one.change}"
        for one in found
    )
