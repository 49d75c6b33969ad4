"""Evaluation of the models so far on the same problems: greedy accuracy and pass@k, each with a 95 % interval."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from grpo.evaluation import mean_interval, pass_at_k
from grpo.files import write_atomic
from grpo.held_out import applicable, chosen_problems, greedy, greedy_figures, is_right
from grpo.metrics import Clock, RunLog, sample_rows
from grpo.policy import load_policy
from grpo.recipe import EvaluateStage
from grpo.rollout.engine import Sampling
from grpo.rollout.make_engine import Work, make_engine, probe_of
from grpo.rollout.stopping import decode
from grpo.rollout.weights import WeightPush
from grpo.run import StageRun
from grpo.task import ask, judge, load_task
from grpo.types import ScoredGroup

Figures = dict[str, float]


def run(stage: EvaluateStage, run: StageRun) -> None:
    """Answer the problems with every model, and leave `metrics.jsonl`, `samples.jsonl` and a table."""
    models = chosen_models(stage, run)
    done: dict[str, Any] = _read_progress(run.folder)
    rows: dict[str, Figures] = done["rows"]
    log = RunLog.open(run.folder, run.folder.name, run.accelerator, done["log"])
    run.display.stage(run.number, run.folder.name, stage.kind, len(models))
    for step, (name, path) in enumerate(models.items(), start=1):
        if name not in rows:
            rows[name], samples = evaluate(stage, run, path, step)
            log.write(step, rows[name], samples, model=name)
            _write_progress(run, rows, log)
        run.display.step(step, rows[name], None)
    table = [_row(name, rows[name], stage) for name in models]
    columns = dict.fromkeys(column for row in table for column in row)  # a reward may apply to some models only
    run.display.table(
        f"{run.folder.name}: {stage.part} problems", [{c: row.get(c, "-") for c in columns} for row in table]
    )
    log.close()


def chosen_models(stage: EvaluateStage, run: StageRun) -> dict[str, str]:
    """The models to evaluate by name, in the order of the recipe."""
    return {name: run.models[name] for name in stage.models or run.models}


def evaluate(stage: EvaluateStage, run: StageRun, path: str, step: int) -> tuple[Figures, list[dict[str, Any]]]:
    """The figures of one model, and every completion as a row of `samples.jsonl`, greedy ones first."""
    policy = load_policy(run.model.model_copy(update={"lora": None}), path)
    policy.model.to(run.accelerator.device)
    task = load_task(stage.problems, stage.rewards, policy.tokenizer, run)
    problems = chosen_problems(task, stage.part)[: stage.limit]
    prompts = [task.problems.prompt_ids[problem.id] for problem in problems]
    work = Work(prompts, stage.max_new_tokens, 1.0, stage.precision, run.folder, run.model.trust_remote_code)
    engine = make_engine(stage, policy, work)
    WeightPush(engine, probe_of(stage, policy, work))(policy.model, step)
    clock = Clock()
    with clock("evaluate"):
        likeliest = greedy(task, engine, run, problems, stage.max_new_tokens, stage.stop)
        sampling = Sampling(stage.temperature, stage.max_new_tokens, stage.top_p, tuple(stage.stop))
        groups = ask(task, engine, run, problems, sampling, stage.samples, 1) if stage.samples else []
        sampled = judge(task, groups, run.accelerator).groups
    engine.close()
    figures = greedy_figures(likeliest, stage.accuracy) | sampled_figures(sampled, stage) | clock.figures()
    return figures, [row for scored in (likeliest, sampled) for row in _rows(step, scored, policy.tokenizer)]


def sampled_figures(sampled: Sequence[ScoredGroup], stage: EvaluateStage) -> Figures:
    """pass@k, the mean over problems, with intervals over problems; nothing where nothing was sampled."""
    figures: Figures = {}
    judged = [applicable(group.scores, stage.accuracy) for group in sampled]
    right = [sum(is_right(score, stage.accuracy) for score in scores) for scores in judged if scores]
    for k in stage.k if sampled else ():
        values = [pass_at_k(stage.samples, count, k) for count in right]
        low, high = mean_interval(values)
        figures |= {f"pass@{k}": sum(values) / len(values), f"pass@{k}_low": low, f"pass@{k}_high": high}
    return figures


def _rows(step: int, scored: Sequence[ScoredGroup], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Rows without an advantage: nothing is learned here."""
    shape = len(scored), len(scored[0].scores) if scored else 0
    nothing: list[list[str | None]] = [[None] * shape[1]] * shape[0]
    return sample_rows(step, scored, torch.full(shape, math.nan), nothing, lambda ids: decode(tokenizer, ids))


def _row(name: str, figures: Mapping[str, float], stage: EvaluateStage) -> dict[str, str]:
    """One line of the closing table."""
    row = {"model": name, "accuracy": _with_interval(figures, "accuracy")}
    if stage.samples:
        row |= {f"pass@{k}": _with_interval(figures, f"pass@{k}") for k in stage.k}
    row |= {"tokens": f"{figures['completion/length_mean']:.1f}", "problems": f"{figures['problems']:.0f}"}
    others = [key for key in figures if key.startswith("reward/") and key != f"reward/{stage.accuracy}"]
    return row | {key.removeprefix("reward/"): f"{figures[key]:.3f}" for key in others}


def _with_interval(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.3f} [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]"


# --- going on after a crash: a model that has been evaluated is not evaluated again -----------------------------------


def _read_progress(folder: Path) -> dict[str, Any]:
    file = folder / "progress.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}, "log": None}


def _write_progress(run: StageRun, rows: Mapping[str, Figures], log: RunLog) -> None:
    if run.accelerator.is_main_process:
        write_atomic(run.folder / "progress.json", json.dumps({"rows": rows, "log": log.position()}))
