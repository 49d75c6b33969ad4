"""`grpo report`: one page about one run or several; and the page that every run leaves."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from grpo.doctor import examine
from grpo.doctor.reader import is_long_enough
from grpo.files import write_atomic
from grpo.report.page import page
from grpo.report.run import Run, read_run
from grpo.report.samples import MOST, pack_samples
from grpo.report.story import Examined, story
from grpo.types import UserError, one_line

REPORT = "report.html"


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `grpo report`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder; several are compared")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; left out, report.html, in the run's folder")
    parser.add_argument("--samples", type=int, default=MOST, help=f"completions in it, in whole groups ({MOST:,})")
    parser.set_defaults(run=report)


def report(options: Namespace) -> None:
    """Write the page and say where it is."""
    if options.samples < 0:
        raise UserError(f"grpo report: --samples must be at least 0, got {options.samples}")
    runs = list(dict.fromkeys(folder.resolve() for folder in options.runs))
    out = options.out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    if out.is_dir():
        raise UserError(f"grpo report: --out {out} is a folder; name a file")
    size = write_report([read_run(folder) for folder in runs], out, options.samples)
    print(f"wrote {out} ({size / 2**20:.1f} MB)")


def write_report(runs: Sequence[Run], out: Path, samples: int = MOST) -> int:
    """Write the page about runs and return its bytes. Raises DiskFull."""
    told = story([examined(run) for run in runs])
    content = page(told, pack_samples(runs, samples)).encode()
    write_atomic(out, content)
    return len(content)


def leave_report(folder: Path) -> str:
    """Write the report of a run that ends, however it ends, and say where it is or why there is none."""
    try:
        write_report([read_run(folder)], folder / REPORT)
    except Exception as error:  # whatever is wrong with a page, it is not to cost the run, nor to hide how that ended
        return f"{REPORT} could not be written: {type(error).__name__}: {one_line(error)}"
    return f"report: {folder / REPORT}"


def examined(run: Run) -> Examined:
    """What the doctor says of a run; None of one that another version left and that it cannot read."""
    try:
        return Examined(run, examine(run.folder), is_long_enough(run.folder))
    except UserError:
        return Examined(run, None)
