"""What is shown is what is there, text from a model cannot steer the terminal, and the terminal survives."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from grpo.display import LiveDisplay, PlainDisplay, SilentDisplay, make_display
from grpo.doctor import Finding
from grpo.doctor.rounds import News
from grpo.panel import View, duration, render

SAMPLE = {
    "problem_id": "sums/[b]17",
    "prompt": "User: 17 + 25 =\nAssistant:",
    "completion": "[red]x[/red]\x1b[31m\n<answer>42</answer>",
    "total": 1.5,
    "rewards": {"accuracy": 1.0, "format": None},
    "finish": "length",
}
FIGURES = {"reward/mean": 0.25, "reward/accuracy": 0.5, "kl": 0.0012, "lr": 1e-4}


def terminal(width: int = 100, height: int = 50) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, height=height, record=True
    )


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(view: View, console: Console) -> str:
    console.print(render(view, console))
    return console.export_text()


def test_the_panel_shows_progress_figures_and_the_sample_literally():
    text = shown(View("run · 02-grpo", 300).after(120, FIGURES, SAMPLE), terminal())
    for expected in (
        "run · 02-grpo",
        "step 120/300",
        "reward 0.250",
        "accuracy",
        "kl 0.0012",
        "lr 1.0e-04",
        "problem sums/[b]17 · reward 1.50 · accuracy 1.00 · format - · cut at the limit",
        "User: 17 + 25 =",
        "[red]x[/red]␛[31m",
        "<answer>42</answer>",
    ):
        assert expected in text


def test_experts_have_a_line_where_there_are_some():
    view = View("run", 3).after(1, FIGURES, None)
    assert "experts" not in shown(view, terminal())
    routers = {"router/max_violation": 0.314, "router/entropy": 0.97, "router/dead": 2.0, "router/rerouted": 0.0125}
    view = view.after(2, routers | {"router/0/max_violation": 0.3}, None)
    (line,) = [line for line in shown(view, terminal()).splitlines() if "experts" in line]
    assert "MaxVio 0.31   entropy  97%   dead 2   rerouted 1.2%" in line


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_fits_its_terminal(width):
    view = View("run", 3)
    long = SAMPLE | {"prompt": "why " * 500, "completion": "中文" * 2000 + "END"}
    for step in (1, 2, 3):
        view = view.after(step, FIGURES | {"reward/mean": step / 2}, long)
    text = shown(view, terminal(width, 40))
    assert "END" in text
    lines = text.splitlines()
    assert len(lines) <= 40
    assert all(Console(width=width).measure(line).maximum <= width for line in lines)


def test_a_figure_that_is_not_finite_does_not_stop_the_panel():
    view = View("run", 2).after(1, {"loss": float("nan")}, None).after(2, {"loss": 2.0}, None)
    assert "loss 2.000" in shown(view, terminal())
    assert "waiting for the first step" in shown(View("run", 2), terminal())


def test_a_reward_that_failed_is_pointed_out():
    figures = {
        "reward/mean": 0.5,
        "reward/a/b.py:fn": 0.5,
        "reward/a/b.py:fn/error": 2.0,
        "reward/a/b.py:fn/timeout": 1.0,
    }
    text = shown(View("run", 2).after(1, figures, None), terminal())
    assert re.search(r"a/b\.py:fn +. +0\.500 +failed on 3", text)
    assert "fn/error" not in text


def test_the_live_view_gives_the_cursor_back_when_the_run_fails():
    console = terminal()
    display = LiveDisplay("run", console)
    try:
        display.stage(1, "01-sft", "sft", 2)
        display.step(1, {"loss": 1.5}, None)
        display.note("[bold] a \x1b[2J note")
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        display.close()
    display.close()
    written = output(console)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert "loss 1.500" in console.export_text(clear=False)
    assert "[bold] a ␛[2J note" in console.export_text()


def test_the_live_view_goes_from_stage_to_stage_and_ends_with_a_table():
    console = terminal()
    display = LiveDisplay("run", console)
    for number, name in enumerate(("01-sft", "02-grpo"), start=1):
        display.stage(number, name, "sft", 1)
        display.step(1, {"loss": 1.0}, None)
    display.table("03-evaluate", [{"model": "base[/]", "pass@1": "0.1"}, {"model": "02-grpo", "pass@1": "0.9"}])
    display.close()
    text = console.export_text()
    assert "run · 01-sft" in text
    assert text.index("run · 02-grpo") < text.index("03-evaluate") < text.index("base[/]")


def test_plain_lines_carry_no_control_characters():
    console = Console(file=io.StringIO())
    display = make_display("run", True, console)
    assert isinstance(display, PlainDisplay)
    display.stage(2, "02-grpo", "grpo", 300)
    display.step(1, FIGURES, SAMPLE)
    display.step(2, FIGURES, SAMPLE)
    display.note("going on\x1b[1m")
    display.table("table", [{"model": "base", "right": "0.1"}, {"model": "02-grpo", "right": "0.95"}])
    display.close()
    lines = output(console).splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", output(console))
    assert lines[0] == "run: stage 2, 02-grpo, 300 steps; every figure is in metrics.jsonl"
    assert lines[1].startswith("02-grpo   1/300  reward  0.250  kl 0.0012  0:00 so far, ")
    assert lines[2].endswith("cut at the limit: [red]x[/red]␛[31m⏎<answer>42</answer>")
    assert lines[3].startswith("02-grpo   2/300  ")
    assert lines[4:] == ["going on␛[1m", "table", "model    right", "base     0.1", "02-grpo  0.95"]


def test_an_output_without_unicode_does_not_end_the_run(tmp_path: Path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        make_display("run", True, Console(file=file)).note("中")
    assert (tmp_path / "out").read_text() == "\\u4e2d\n"


def test_the_display_fits_process_and_output():
    assert isinstance(make_display("run", False, terminal()), SilentDisplay)
    assert isinstance(make_display("run", True, terminal()), LiveDisplay)


def test_durations():
    assert [duration(seconds) for seconds in (7.4, 192, 3723)] == ["0:07", "3:12", "1:02:03"]


def found(name: str) -> Finding:
    return Finding(name, "02-grpo", 1, 9, f"[b]seen[/b]\x1b[31m {'very ' * 99}often", "stages.1.lr: 0.1 -> 0.01")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_shows_findings_and_still_fits(width: int) -> None:
    names = ["no signal", "truncation", "KL growth", "solved", "not finite"]
    long = SAMPLE | {"prompt": "why " * 500, "completion": "word " * 2000 + "END"}
    view = View("run", 3).after(1, FIGURES, long).with_findings([found(name) for name in names])
    text = shown(view, terminal(width, 40))
    assert [name for name in names if name in text] == names  # those without room for their evidence by name
    assert text.count("change stages.1.lr: 0.1 -> 0.01") == 3
    assert len(text.splitlines()) <= 40
    assert "END" in text
    assert "\x1b[31m very" not in text


def test_a_line_says_once_that_a_finding_begins_and_once_that_it_is_over() -> None:
    console = Console(file=io.StringIO(), width=40)
    display = PlainDisplay("run", console)
    one = Finding("truncation", "02-grpo", 1, 9, "90% were cut", "stages.1.rollout.max_new_tokens: 4 -> 8")
    for news in (News([one], [], [one]), News([], [], [one]), News([], [one], [])):
        display.findings(news)
    assert output(console).splitlines() == [
        "doctor: truncation (from step 1): 90% were cut; change stages.1.rollout.max_new_tokens: 4 -> 8",
        "doctor: truncation is over (steps 1 to 9)",
    ]
