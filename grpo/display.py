"""What a person sees while a run goes on: a live view in a terminal, plain lines in a file."""

import io
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from grpo.doctor.rounds import News, begun, over
from grpo.drawing import visible
from grpo.panel import Figures, Sample, View, render, sample_title, written

PLAIN_FIGURES = ("reward/mean", "accuracy", "loss", "kl", "entropy", "completion/length_mean", "evaluation/accuracy")
"""The figures of a plain line, those that are not measured at every step last."""
PLAIN_SAMPLE_LENGTH = 200
SAMPLE_EVERY_S = 60.0
"""Seconds between two samples among plain lines."""


class Display(Protocol):
    """Shows a run to a person."""

    def stage(self, number: int, name: str, kind: str, total_steps: int) -> None:
        """Begin a stage."""
        ...

    def step(self, step: int, figures: Figures, sample: Sample | None) -> None:
        """Show what a step came to."""
        ...

    def findings(self, news: News) -> None:
        """Show what the doctor found: after every step, though mostly there is no news."""
        ...

    def note(self, text: str) -> None:
        """Show a sentence that stays."""
        ...

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Show a table that stays; the rows have the same keys."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def make_display(run_name: str, is_main_process: bool, console: Console | None = None) -> Display:
    """Choose by process and output: only the main process shows anything, and only a terminal gets the live view."""
    if not is_main_process:
        return SilentDisplay()
    console = console or Console()
    if isinstance(console.file, io.TextIOWrapper):
        console.file.reconfigure(errors="backslashreplace")  # an output without UTF-8 must not end the run
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(run_name, console)
    return PlainDisplay(run_name, console)


class SilentDisplay:
    """Shows nothing: the display of every process but the main one."""

    def stage(self, number: int, name: str, kind: str, total_steps: int) -> None:
        """Show nothing."""

    def step(self, step: int, figures: Figures, sample: Sample | None) -> None:
        """Show nothing."""

    def findings(self, news: News) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class LiveDisplay:
    """A panel at the foot of the terminal that follows the run; notes scroll away above it."""

    def __init__(self, run_name: str, console: Console):
        self.run_name = run_name
        self.console = console
        self.view = View(run_name, 0)
        self.live = self._make_live()

    def stage(self, number: int, name: str, kind: str, total_steps: int) -> None:
        """Begin a panel; that of the stage before stays as it ended."""
        self.close()
        self.view = View(f"{self.run_name} · {name}", total_steps)
        self.live = self._make_live()
        self.live.start()

    def step(self, step: int, figures: Figures, sample: Sample | None) -> None:
        """Show what a step came to."""
        # Another thread draws the panel, so it gets a whole new view instead of changes to the one it is drawing.
        self.view = self.view.after(step, dict(figures), sample)

    def findings(self, news: News) -> None:
        """Show what is there now in the panel; what is over scrolls away above it."""
        self.view = self.view.with_findings(news.present)
        for found in news.ended:
            self.note(over(found))

    def note(self, text: str) -> None:
        """Print a sentence above the panel."""
        self.console.print(Text(visible(text), "yellow"))

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """End the panel and print a table below it."""
        self.close()
        table = Table(title=Text(visible(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD)
        for name in rows[0] if rows else ():
            table.add_column(Text(visible(name)))
        for row in rows:
            table.add_row(*[Text(visible(value)) for value in row.values()])
        self.console.print(table)

    def close(self) -> None:
        """Draw the panel a last time and give the cursor back."""
        self.live.stop()

    def _make_live(self) -> Live:
        return Live(console=self.console, get_renderable=self._render, refresh_per_second=2)

    def _render(self) -> RenderableType:
        return render(self.view, self.console)


class PlainDisplay:
    """One line a step, and a sample now and then; no colours and nothing that moves."""

    def __init__(self, run_name: str, console: Console):
        self.run_name = run_name
        self.console = console
        self.view = View(run_name, 0)
        self.next_sample = 0.0

    def stage(self, number: int, name: str, kind: str, total_steps: int) -> None:
        """Say what follows."""
        self.view = View(name, total_steps)
        self._print(f"{self.run_name}: stage {number}, {name}, {total_steps} steps; every figure is in metrics.jsonl")

    def step(self, step: int, figures: Figures, sample: Sample | None) -> None:
        """Print the step's line."""
        self.view = self.view.after(step, {}, None)
        count = f"{self.view.title} {step:>{len(str(self.view.total_steps))}}/{self.view.total_steps}"
        shown = [written(name, figures) for name in PLAIN_FIGURES if name in figures]
        self._print("  ".join([count, *shown, self.view.timing()]))
        if sample is not None and time.monotonic() >= self.next_sample:
            self.next_sample = time.monotonic() + SAMPLE_EVERY_S
            text = sample["completion"].strip().replace("\n", "⏎")
            short = text if len(text) <= PLAIN_SAMPLE_LENGTH else f"{text[:PLAIN_SAMPLE_LENGTH]}…"
            self._print(f"    {sample_title(sample)}: {short}")

    def findings(self, news: News) -> None:
        """Print a line for each finding that begins and each that is over."""
        for line in [*map(begun, news.began), *map(over, news.ended)]:
            self._print(line)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._print(text)

    def table(self, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Print a table in aligned columns."""
        lines = [list(rows[0]), *[list(row.values()) for row in rows]] if rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        self._print(title)
        for line in lines:
            self._print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def close(self) -> None:
        """Leave things as they are: nothing was changed."""

    def _print(self, line: str) -> None:
        # Not through rich, which would wrap lines to a width that a file does not have.
        print(visible(line), file=self.console.file, flush=True)
