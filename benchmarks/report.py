"""What a report costs: the time to write it, its size, and how long Chromium takes to open, filter and scroll it.

    python benchmarks/report.py [--samples 10000] [--words 250] [--page FILE]

It makes a run of that many completions, of about as many words each, or opens the page of a FILE, in headless Chromium.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from grpo.report.command import write_report
from grpo.report.run import read_run

GROUP, GROUPS = 10, 10
"""Completions of a problem, and problems of a step."""
WORDS = ("so", "we", "have", "the", "sum of", "carry", "one", "digit", "plus", "equals", "check", "again", "let", "me")
LAUNCH = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


# --- a run of any size ------------------------------------------------------------------------------------------------


def write_run(folder: Path, samples: int, words: int, seed: int = 0, lr: float = 1e-3) -> Path:
    """Write what a run of reinforcement learning and an evaluation leaves, without models."""
    chance = random.Random(seed)
    steps = max(1, samples // (GROUP * GROUPS))
    grpo = {"kind": "grpo", "steps": steps, "lr": lr, "token_logprobs": 1}
    stages = [grpo, {"kind": "evaluate", "accuracy": "accuracy"}]
    recipe = {"name": folder.name, "seed": seed, "output": str(folder.parent), "stages": stages}
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {"versions": {"grpo-train": "0.1.0"}, "seed": seed, "git_commit": "0" * 40, "command": ["grpo-train"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    trained, evaluated = folder / "01-grpo", folder / "02-evaluate"
    metrics = [_figures(step, steps, chance) for step in range(1, steps + 1)]
    _write(trained / "metrics.jsonl", [_evaluation(0, 0.2), *metrics, _evaluation(steps, 0.8) | metrics[-1]])
    _write(trained / "samples.jsonl", [row for step in range(1, steps + 1) for row in _samples(step, words, chance)])
    _write(trained / "experts.jsonl", [{"step": s, "load": _load(chance)} for s in range(1, steps + 1)])
    models = [{"model": name, **_accuracy("", a)} for name, a in (("base", 0.2), ("01-grpo", 0.8))]
    rows = [{"step": s, "time": 1.8e9 + steps + s, "template": "training", **m} for s, m in enumerate(models, 1)]
    _write(evaluated / "metrics.jsonl", rows)
    for stage in (trained, evaluated):
        (stage / "complete.json").write_text("{}")
    return folder


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _accuracy(prefix: str, value: float) -> dict[str, float]:
    return {f"{prefix}accuracy": value, f"{prefix}accuracy_low": value - 0.1, f"{prefix}accuracy_high": value + 0.1}


def _evaluation(step: int, accuracy: float) -> dict[str, Any]:
    return {"step": step, "time": 1.8e9 + step, **_accuracy("evaluation/", accuracy), "time/evaluate": 0.5}


def _figures(step: int, steps: int, chance: random.Random) -> dict[str, Any]:
    learned = step / steps
    phases = {"time/rollout": 0.6, "time/reward": 0.1, "time/learn": 0.2, "time/sync": 0.05}
    return {
        "step": step,
        "time": 1.8e9 + step,
        "reward/mean": 0.2 + learned + chance.random() / 10,
        "reward/accuracy": 0.1 + 0.8 * learned,
        "reward/format": 1.0,
        "completion/length_mean": 100 + 50 * learned,
        "completion/truncated": 0.02,
        "entropy": 1 - 0.9 * learned,
        "kl": 0.01 * learned,
        "groups/zero_std": 0.3,
        "sampler/mismatch_mean": 1e-7,
        "sampler/mismatch_max": 1e-5,
        "router/max_violation": 0.4,
        "loss": 0.0,
        "tokens/rollout_per_s": 5000.0,
        **phases,
    }


def _load(chance: random.Random) -> list[list[int]]:
    return [[chance.randrange(10, 100) for _ in range(8)] for _ in range(2)]


def _samples(step: int, words: int, chance: random.Random) -> list[dict[str, Any]]:
    return [_sample(step, group, number, words, chance) for group in range(GROUPS) for number in range(GROUP)]


def _sample(step: int, group: int, number: int, words: int, chance: random.Random) -> dict[str, Any]:
    tokens = [word + " " for word in chance.choices(WORDS, k=words)]
    answer = chance.randrange(100)
    text = f"<think>{''.join(tokens)}{answer}</think><answer>{answer}</answer>"
    right = float(chance.random() < 0.5)
    row = {
        "step": step,
        "problem_id": f"{1000 * step + group:016x}",
        "prompt": f"{step}+{group}=",
        "completion": text,
        "tokens": words + 10,
        "rewards": {"accuracy": right, "format": 1.0},
        "status": {"accuracy": "ok", "format": "ok"},
        "notes": {"accuracy": "answer_tag"},
        "total": right + 0.2,
        "advantage": right - 0.5,
        "weight_version": step - 1,
        "finish": "length" if number == 9 else "stop",
        "mask_reason": None,
    }
    if group == 0:
        pieces = ["<think>", *tokens, text[7 + sum(map(len, tokens)) :]]
        row["token_logprobs"] = [round(-3 * chance.random() ** 3, 3) for _ in pieces]
        row["token_lengths"] = [len(piece) for piece in pieces]
    return row


# --- what it costs ----------------------------------------------------------------------------------------------------


def timed(action: Any) -> tuple[float, Any]:
    """How long an action takes, and what it returns."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def measure(page: Path) -> dict[str, float]:
    """Seconds that Chromium takes for what a reader does."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=LAUNCH)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto("about:blank")
        opened, _ = timed(lambda: tab.goto(page.resolve().as_uri()))
        drawn = tab.evaluate("performance.getEntriesByName('report-ready')[0].startTime / 1000")
        tab.wait_for_selector("html[data-samples=ready]")
        listed = tab.evaluate("performance.getEntriesByName('samples-ready')[0].startTime / 1000")
        searched = [
            _filtered(tab, "input[name=text]", text) for text in ("carry one", "check again let me", "42</answer>")
        ]
        scrolled = [_scrolled(tab, share) for share in (0.2, 0.5, 0.9)]
        browser.close()
    return {"load": opened, "drawn": drawn, "listed": listed, "search": median(searched), "scroll": median(scrolled)}


def _filtered(tab: Any, field: str, text: str) -> float:
    """Seconds from the last letter to the new list, the pause for further letters included."""
    script = """([field, text]) => new Promise((done) => {
      const input = document.querySelector(field), start = performance.now();
      new MutationObserver(() => done((performance.now() - start) / 1000))
        .observe(document.getElementById("sample-count"), { childList: true });
      input.value = text; input.dispatchEvent(new Event("input"));
    })"""
    return float(tab.evaluate(script, [field, text]))


def _scrolled(tab: Any, share: float) -> float:
    """Seconds until the rows at another place of the list are there."""
    script = """(share) => new Promise((done) => {
      const list = document.querySelector(".list"), start = performance.now();
      list.scrollTop = share * list.scrollHeight;
      requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
    })"""
    return float(tab.evaluate(script, share))


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=250)
    parser.add_argument("--page", type=Path, help="a page that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = options.page or Path(folder) / "report.html"
        if options.page is None:
            run = write_run(Path(folder) / "long", options.samples, options.words)
            seconds, _ = timed(lambda: write_report([read_run(run)], page))
            print(f"written in     {seconds:8.2f} s")
        print(f"size           {page.stat().st_size / 2**20:8.2f} MB")
        for name, value in measure(page).items():
            print(f"{name:14} {value:8.3f} s")


if __name__ == "__main__":
    main()
