"""The picture of a stage in progress: what there is to see of it, and how it is laid out."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from grpo.doctor.finding import Finding
from grpo.drawing import curve, sparkline, visible

Figures = Mapping[str, float]
Sample = Mapping[str, Any]
"""A row of samples.jsonl."""

FIGURES = {
    "reward/mean": ("reward", "6.3f"),
    "accuracy": ("accuracy", "5.3f"),
    "loss": ("loss", "7.4f"),
    "kl": ("kl", "6.4f"),
    "entropy": ("entropy", "5.3f"),
    "completion/length_mean": ("length", "5.1f"),
    "completion/truncated": ("cut", "4.0%"),
    "groups/zero_std": ("no signal", "4.0%"),
    "ratio/clipped": ("clipped", "5.1%"),
    "grad_norm": ("gradient", "6.3f"),
    "lr": ("lr", "7.1e"),
    "evaluation/accuracy": ("held-out", "5.3f"),
    "tokens/rollout_per_s": ("rollout tok/s", ",.0f"),
    "tokens/learn_per_s": ("learn tok/s", ",.0f"),
    "memory/peak_mb": ("memory MB", ",.0f"),
}
"""The figures worth a look at every step: how they are called and written."""
ROUTER_FIGURES = {
    "router/max_violation": ("MaxVio", "4.2f"),
    "router/entropy": ("entropy", "4.0%"),
    "router/dead": ("dead", "1.0f"),
    "router/rerouted": ("rerouted", "4.1%"),
}
"""What the line about experts says. MaxVio, the most overloaded expert, is drawn over time."""
CURVES = ("reward/mean", "accuracy", "loss")
"""The figure drawn large: the first of these that there is."""
NOT_A_REWARD = ("/mean", "/std", "/not_applicable", "/error", "/timeout")
"""How the names of figures about rewards end that are not the mean of one reward."""
CURVE_ROWS = 5
SPARK_WIDTH = 24
PROMPT_ROWS = 3
COMPLETION_ROWS = 10
ROWS_ABOVE_COMPLETION = 24
FINDINGS_SHOWN = 3


@dataclass(frozen=True)
class View:
    """What there is to see of a stage: `history` holds the figures of the steps taken since `began`."""

    title: str
    total_steps: int
    began: float = field(default_factory=time.monotonic)
    step: int = 0
    history: tuple[Figures, ...] = ()
    sample: Sample | None = None
    findings: tuple[Finding, ...] = ()

    def after(self, step: int, figures: Figures, sample: Sample | None) -> "View":
        """Return the view one step on. The last sample stays until there is another."""
        return replace(self, step=step, history=(*self.history, figures), sample=sample or self.sample)

    def with_findings(self, findings: Sequence[Finding]) -> "View":
        """Return the view with what the doctor finds now."""
        return replace(self, findings=tuple(findings))

    def series(self, name: str) -> list[float]:
        """Return the finite values of a figure over the steps that have it."""
        return [figures[name] for figures in self.history if math.isfinite(figures.get(name, math.nan))]

    def latest(self) -> dict[str, float]:
        """Return the newest value of every figure."""
        return {name: value for figures in self.history for name, value in figures.items()}

    def timing(self) -> str:
        """Say how long the stage takes, judged by the steps taken so far."""
        elapsed = time.monotonic() - self.began
        if not self.history:
            return f"{duration(elapsed)} so far"
        left = elapsed / len(self.history) * (self.total_steps - self.step)
        return f"{duration(elapsed)} so far, {duration(left)} left"


def duration(seconds: float) -> str:
    """Write seconds as 0:07, 3:12 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def written(name: str, figures: Figures) -> str:
    """Write a figure with its short name; empty where it was not measured."""
    label, form = FIGURES[name]
    return f"{label} {figures[name]:{form}}" if name in figures else ""


def sample_title(sample: Sample) -> str:
    """Write what a sample's completion got: its problem, its total, its rewards by name, how it ended."""
    total = "unscored" if sample["total"] is None else f"reward {sample['total']:.2f}"
    parts = [f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in sample["rewards"].items()]
    ending = "cut at the limit" if sample["finish"] == "length" else "ended by itself"
    return visible(" · ".join([f"problem {sample['problem_id']}", total, *parts, ending]).replace("\n", " "))


def render(view: View, console: Console) -> RenderableType:
    """Lay out a view for a console's width: progress, curve, rewards, figures, a sample."""
    width = min(console.width, 120) - 4
    blocks = [_progress(view), *_curve(view, width), *_rewards(view), _figures(view.latest()), *_routers(view)]
    ill = list(_findings(view.findings))
    blocks += ill
    if view.sample is not None:
        blocks += _sample(view.sample, console, width, ROWS_ABOVE_COMPLETION + len(ill))
    return Panel(Group(*blocks), title=Text(f" {view.title} ", "bold"), width=width + 4, border_style="blue")


def _progress(view: View) -> RenderableType:
    row = Table.grid(expand=True, padding=(0, 2))
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    bar = ProgressBar(total=view.total_steps, completed=view.step)
    row.add_row(bar, Text(f"step {view.step}/{view.total_steps} · {view.timing()}"))
    return row


def _curve(view: View, width: int) -> Iterator[RenderableType]:
    name = next((name for name in CURVES if view.series(name)), None)
    if name is None:
        return
    values = view.series(name)
    edges = [f"{max(values):.3f}", *[""] * (CURVE_ROWS - 2), f"{min(values):.3f}"]
    margin = max(map(len, edges))
    yield Text.assemble("\n", (f"{FIGURES[name][0]} ", "bold"), (f"{values[-1]:.3f}", "bold green"))
    for edge, row in zip(edges, curve(values, width - margin - 2, CURVE_ROWS), strict=True):
        yield Text.assemble((f"{edge:>{margin}} ", "dim"), ("│", "dim"), (row, "green"))


def _rewards(view: View) -> Iterator[RenderableType]:
    """Draw every reward by name, small, and say on how many completions of the last step it failed."""
    latest = view.latest()
    names = [name for name in latest if name.startswith("reward/") and not name.endswith(NOT_A_REWARD)]
    table = Table.grid(padding=(0, 2))
    for name in names:
        values = view.series(name)
        failed = sum(latest.get(f"{name}/{status}", 0) for status in ("error", "timeout"))
        table.add_row(
            Text(visible(name.removeprefix("reward/")), "dim"),
            Text(sparkline(values, SPARK_WIDTH), "cyan"),
            f"{values[-1]:.3f}" if values else "",
            Text(f"failed on {failed:.0f}" if failed else "", "bold red"),
        )
    if names:
        yield Padding(table, (1, 0, 0, 0))


def _figures(figures: Figures) -> RenderableType:
    if not figures:
        return Text("\nwaiting for the first step", "dim")
    cells = [
        Text.assemble((f"{label} ", "dim"), f"{figures[name]:{form}}".strip())
        for name, (label, form) in FIGURES.items()
        if name in figures
    ]
    return Padding(Columns(cells, padding=(0, 3), equal=True), (1, 0, 0, 0))


def _routers(view: View) -> Iterator[RenderableType]:
    """One line about experts, where there are some."""
    latest, drawn = view.latest(), view.series("router/max_violation")
    if drawn:
        told = [f"{label} {latest[n]:{form}}" for n, (label, form) in ROUTER_FIGURES.items() if n in latest]
        yield Text.assemble(("experts ", "dim"), (sparkline(drawn, SPARK_WIDTH), "cyan"), "  ", "   ".join(told))


def _findings(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """Two lines for each of the first findings, whatever their length."""
    for found in findings[:FINDINGS_SHOWN]:
        seen = Text.assemble((f"{found.name} ", "bold red"), (visible(found.evidence), "red"), no_wrap=True)
        change = Text.assemble(("  change ", "dim"), visible(found.change), no_wrap=True)
        for line in (seen, change):
            line.overflow = "ellipsis"
            yield line
    if len(findings) > FINDINGS_SHOWN:
        yield Text(
            f"and {', '.join(found.name for found in findings[FINDINGS_SHOWN:])}",
            "red",
            no_wrap=True,
            overflow="ellipsis",
        )


def _sample(sample: Sample, console: Console, width: int, above: int) -> Iterator[RenderableType]:
    """Show the end of the prompt, where the question stands, and both ends of the completion."""
    prompt = _wrapped(sample["prompt"], "dim", console, width)
    completion = _wrapped(sample["completion"], "default", console, width)
    rows = min(max(console.height - above, 3), COMPLETION_ROWS)
    if len(completion) > rows:
        completion = [*completion[: rows // 2], Text("…", "dim"), *completion[rows // 2 + 1 - rows :]]
    yield Rule(Text(sample_title(sample), "dim"), style="dim")
    yield Group(*prompt[-PROMPT_ROWS:], *completion)


def _wrapped(text: str, style: str, console: Console, width: int) -> list[Text]:
    return list(Text(visible(text).strip(), style).wrap(console, width))
