"""Rejection sampling: sample a model on every problem, judge, and leave what is worth learning from as `data.jsonl`.

The samples of a chunk of problems are saved as they come. What becomes of them is a function of them all, in order, so
a run that was killed judges them again and leaves the same files.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from grpo.candidates import data_row, open_files
from grpo.chain import DATA
from grpo.data import draw, in_turns, split
from grpo.decontamination import EvaluationIndex, evaluation_index, overlap
from grpo.duplicates import KeptTexts
from grpo.files import write_atomic
from grpo.forward import prepare_packing
from grpo.journal import Rollout, prune_rollouts, read_rollout, write_rollout
from grpo.metrics import Clock, RunLog
from grpo.policy import Policy, load_policy
from grpo.rejection_stage import MixSettings, RejectionStage
from grpo.rewards.score import reward_figures
from grpo.rollout.collect import rollout_figures
from grpo.rollout.engine import Engine, Sampling
from grpo.rollout.make_engine import Work, chosen_engine, make_engine, probe_of
from grpo.rollout.weights import WeightPush
from grpo.rollouts import check_failures
from grpo.run import StageRun
from grpo.sieve import KEPT, Sieve
from grpo.sources import origin, read_problems, same_problems
from grpo.task import Task, ask, judge, load_judges, load_task
from grpo.templates import opened
from grpo.types import Problem, TrainingFailure, UserError


def run(stage: RejectionStage, run: StageRun) -> None:
    """Leave `candidates.jsonl`, every sample with its reason, and `data.jsonl`, those kept and what is mixed in."""
    if (run.folder / DATA).exists():  # the last thing that is written
        return
    policy = load_policy(run.model.model_copy(update={"lora": None}), run.start_model)
    policy.model.to(run.accelerator.device)
    prepare_packing(policy.model, policy.tokenizer)  # its notes are about training
    task = load_task(stage.problems, load_judges(stage.rewards, run), policy.tokenizer, run)
    index = _evaluations(stage, run)
    problems = _clean_problems(task, index, stage, run)
    chunks = [problems[i : i + stage.problems_per_chunk] for i in range(0, len(problems), stage.problems_per_chunk)]
    kept_texts = None if stage.near_duplicates is None else KeptTexts(stage.near_duplicates)
    firsts = {problem.source: problem for problem in reversed(problems)}
    prefills = {source: opened(task.manner(source).template, problem) for source, problem in firsts.items()}
    sieve = Sieve(stage, prefills, index, kept_texts)
    logged = _read_progress(run.folder)
    log = RunLog.open(run.folder, run.folder.name, run.accelerator, logged["log"])
    run.display.stage(run.number, run.folder.name, stage.kind, len(chunks))

    with ExitStack() as opened_here:
        files = opened_here.enter_context(open_files(run.folder, run.accelerator.is_main_process))
        engine = cache(lambda: _start_engine(stage, run, policy, task, opened_here))
        for step, chunk in enumerate(chunks, start=1):
            rollout = _sampled(stage, run, task, engine, step, chunk, len(chunks[0]))
            files.write(sieve.sift(rollout.scored))
            figures = dict(rollout.figures) | sieve.figures()
            if step > logged["step"]:
                log.write(step, figures, [])
                _write_progress(run, step, log)
            run.display.step(step, figures, None)
        _check_kept(sieve, run)
        mixed = [row for mix in stage.mix for row in _mixed(mix, stage, run, sieve.counts[KEPT], index)]
        files.add(mixed)
    run.display.table(f"{run.folder.name}: {DATA}", _table(sieve, len(mixed)))
    log.close()
    run.accelerator.wait_for_everyone()  # every process has read what is saved before it goes
    if run.accelerator.is_main_process:
        prune_rollouts(run.folder / "rollouts", len(chunks))


# --- samples ----------------------------------------------------------------------------------------------------------


def _sampled(
    stage: RejectionStage,
    run: StageRun,
    task: Task,
    engine: Callable[[], Engine],
    step: int,
    chunk: Sequence[Problem],
    full: int,
) -> Rollout:
    """The scored samples of a chunk: those that an interrupted run saved, or new ones, saved.

    The last chunk may be smaller than the `full` number of problems, and rewards may fail as often in it.
    """
    folder = run.folder / "rollouts"
    saved = read_rollout(folder, step, {problem.id: problem for problem in chunk})
    if saved is not None:
        return saved
    sampling = Sampling(stage.temperature, stage.max_new_tokens, stage.top_p, tuple(stage.stop))
    clock = Clock()
    with clock("rollout"):
        groups = ask(task, engine(), run, chunk, sampling, stage.samples, step)
    with clock("reward"):
        scoring = judge(task, groups, run, step)
    for name, seconds in scoring.seconds.items():
        clock.add(f"reward/{name}", seconds)
    check_failures(scoring, task.rewards, stage.max_reward_errors, step, of=full * stage.samples)
    figures = reward_figures(scoring.groups) | rollout_figures(groups, clock.seconds("rollout")) | clock.figures()
    rollout = Rollout(step, len(chunk), scoring.groups, figures)
    if run.accelerator.is_main_process:
        write_rollout(folder, rollout)
    return rollout


def _start_engine(stage: RejectionStage, run: StageRun, policy: Policy, task: Task, opened_here: ExitStack) -> Engine:
    """The engine with the model's weights; it is closed with what else the stage has opened."""
    prompts = list(task.problems.prompt_ids.values())
    work = Work(prompts, stage.max_new_tokens, 1.0, stage.precision, run.folder, run.model.trust_remote_code)
    run.display.note(f"{run.folder.name}: {chosen_engine(stage, policy.model.config)} samples {run.start_model}")
    engine = make_engine(stage, policy, work)
    opened_here.callback(engine.close)
    WeightPush(engine, probe_of(stage, policy, work))(policy.model, 0)
    return engine


# --- what is evaluated on is not learned from -------------------------------------------------------------------------


def _evaluations(stage: RejectionStage, run: StageRun) -> EvaluationIndex | None:
    """The problems of the recipe's evaluations and of other sets that the stage names.

    A stage that evaluates on the very problems that are sampled does so on purpose, to see what was learned.
    """
    if stage.decontaminate is None:
        return None
    against = [source for problems in stage.decontaminate.against for source in problems.each]
    prompts = [p.prompt for source in against for p in read_problems(source, run.seed)]
    for problems, part in run.evaluated:
        train, held_out = split(read_problems(problems, run.seed), problems.held_out)
        if part != "held_out" and not any(same_problems(problems, source) for source in stage.problems.each):
            prompts += [problem.prompt for problem in train]
        if part != "train":
            prompts += [problem.prompt for problem in held_out]
    return evaluation_index(prompts, stage.decontaminate.words, stage.decontaminate.common)


def _clean_problems(
    task: Task, index: EvaluationIndex | None, stage: RejectionStage, run: StageRun
) -> tuple[Problem, ...]:
    """The problems to sample on: those of the training part that share nothing with an evaluation.

    Raises:
        UserError: there are none.
    """
    every = task.problems.train
    clean = tuple(problem for problem in every if index is None or overlap(index, problem.prompt) is None)
    if len(clean) < len(every):
        run.display.note(f"{run.folder.name}: {len(every) - len(clean)} problems that overlap evaluations are left out")
    if not clean:
        raise UserError(
            f"{run.folder.name}: expected problems to sample on, got none of {len(every)} that shares nothing with an "
            "evaluation: lower decontaminate.common if their wording is the same, or add data"
        )
    return in_turns(clean)[: stage.limit]


# --- what else is learned from ----------------------------------------------------------------------------------------


def _mixed(
    mix: MixSettings, stage: RejectionStage, run: StageRun, kept: int, index: EvaluationIndex | None
) -> list[dict[str, Any]]:
    """As many other examples as the ratio says, of prompts that neither they nor what is sampled hold out."""
    held_out = max(source.held_out for source in stage.problems.each)
    every = [
        problem
        for source in mix.problems.each
        for problem in split(read_problems(source, run.seed), max(source.held_out, held_out))[0]
    ]
    texts = [(problem, mix.written(problem.columns[mix.completion_column])) for problem in every]
    clean = [problem for problem, text in texts if index is None or overlap(index, problem.prompt, text) is None]
    wanted = round(kept * mix.ratio)
    if wanted > len(clean) and mix.problems.too_few == "error":
        run.display.note(
            f"{run.folder.name}: {origin(mix.problems)} has {len(clean)} examples that overlap no evaluation, "
            f"{wanted} are wanted for {kept} samples: all are taken (too_few: wrap repeats them)"
        )
        wanted = len(clean)
    drawn = draw(clean, run.seed, 0, wanted) if clean else []
    name = Path(origin(mix.problems)).name
    rows = [data_row(p.prompt, mix.written(p.columns[mix.completion_column]), p.columns, name) for p in drawn]
    # Without a difference, repetitions would be taken for one row that stands there twice.
    return [row | ({"repeat": place // len(clean)} if place >= len(clean) else {}) for place, row in enumerate(rows)]


def _check_kept(sieve: Sieve, run: StageRun) -> None:
    if not sieve.counts[KEPT]:
        why = ", ".join(f"{reason} {count:,}" for reason, count in sieve.counts.most_common())
        raise TrainingFailure(
            f"{run.folder.name}: none of {sieve.counts.total():,} candidates is kept ({why}); candidates.jsonl has "
            f"each: take a model that solves more, or change the filters and add --from {run.folder.name}"
        )


def _table(sieve: Sieve, mixed: int) -> list[dict[str, str]]:
    total = sieve.counts.total()
    counts = {name.removeprefix("reasons/"): int(n) for name, n in sieve.figures().items() if name != "candidates"}
    rows = {name: (f"{count:,}", f"{count / total:.1%}") for name, count in counts.items()}
    rows |= {"candidates": (f"{total:,}", "100.0%")} | ({"mixed in": (f"{mixed:,}", "")} if mixed else {})
    return [{"reason": name, "count": count, "share": share} for name, (count, share) in rows.items()]


# --- going on after a crash: figures of a chunk are written once ------------------------------------------------------


def _read_progress(folder: Path) -> dict[str, Any]:
    file = folder / "progress.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"step": 0, "log": None}


def _write_progress(run: StageRun, step: int, log: RunLog) -> None:
    if run.accelerator.is_main_process:
        write_atomic(run.folder / "progress.json", json.dumps({"step": step, "log": log.position()}))
