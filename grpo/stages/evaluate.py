"""Evaluation of the models so far on the same problems: greedy accuracy, pass@k and cons@k, with 95 % intervals."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from grpo.data import load_problems
from grpo.evaluate_stage import EvaluateStage
from grpo.evaluation import is_right
from grpo.evaluation_table import tables
from grpo.files import full_disk_is_an_answer, sync, write_atomic
from grpo.forward import prepare_packing
from grpo.held_out import chosen_problems
from grpo.masked import masked
from grpo.metrics import Clock, RunLog, completion_row, json_line
from grpo.policy import Policy, load_policy
from grpo.pretrained import load_tokenizer
from grpo.problem_settings import ProblemSettings, TemplateSettings
from grpo.recorded import INTERVALS, Figures, Wanted, figures_of, from_row
from grpo.reward_settings import RewardSettings
from grpo.rewards.answers.compare import Tolerance
from grpo.rewards.registry import PREFERENCES, Reward
from grpo.rewards.voting import found_answer
from grpo.rollout.engine import Engine, Sampling
from grpo.rollout.make_engine import Work, make_engine, probe_of
from grpo.rollout.stopping import decode
from grpo.rollout.weights import WeightPush
from grpo.run import StageRun
from grpo.task import Task, ask, judge, load_judges, load_task
from grpo.templates import opened
from grpo.types import Problem, ScoredGroup, UserError

Row = dict[str, Any]

WAVES = 4
"""Times `max_concurrent` completions between two writes: enough to keep the engine busy, little to lose."""


def run(stage: EvaluateStage, run: StageRun) -> None:
    """Answer the problems with every model, and leave `metrics.jsonl`, `samples.jsonl` and a table."""
    models = chosen_models(stage, run)
    done: dict[str, Any] = _read_progress(run.folder)
    rows: dict[str, Figures] = done["rows"]
    log = RunLog.open(run.folder, run.folder.name, run.accelerator, done["log"])
    templates: list[str] = [*stage.templates]
    asked = [(name, template) for name in models for template in templates]
    judges = load_judges(stage.rewards, run)
    unknown = [path for name, path in models.items() if any(key_of(name, one) not in rows for one in templates)]
    fitting = fitting_problems(stage, run, models.values()) if unknown else None
    run.display.stage(run.number, run.folder.name, stage.kind, len(asked))
    for name, path in models.items():
        steps = {template: asked.index((name, template)) + 1 for template in templates}
        if any(key_of(name, template) not in rows for template in templates):
            for template, figures, samples in evaluate(stage, run, _Asked(name, path, steps, fitting), judges, rows):
                rows[key_of(name, template)] = figures
                log.write(steps[template], figures, samples, model=name, template=template)
                _write_progress(run, rows, log)
                run.display.step(steps[template], figures, None)
    log.close()
    measured = [(name, template, rows[key_of(name, template)]) for name, template in asked]
    if run.accelerator.is_main_process:
        for unfinished in run.folder.glob("unfinished-*.jsonl"):  # all of it is in samples.jsonl now
            unfinished.unlink()
        write_results(run.folder / "results.json", measured, masked(stage.model_dump(mode="json")))
    for part, lines in tables(measured, stage.accuracy, preferences(stage.rewards)).items():
        run.display.table(f"{run.folder.name}: {stage.part} problems{part}", lines)


def write_results(path: Path, measured: Sequence[tuple[str, str, Figures]], settings: Mapping[str, Any]) -> None:
    """All figures in one file, with what their intervals are and how they were measured."""
    results = [{"model": model, "template": template, "figures": figures} for model, template, figures in measured]
    write_atomic(path, json.dumps({"intervals": INTERVALS, "results": results, "settings": settings}, indent=1) + "\n")


def chosen_models(stage: EvaluateStage, run: StageRun) -> dict[str, str]:
    """The models to evaluate by name, in the order of the recipe."""
    return {name: run.models[name] for name in stage.models or run.models}


def key_of(model: str, template: str) -> str:
    """Under which the figures of a model are kept."""
    return f"{model}/{template}"


class _Asked(NamedTuple):
    """A model that is evaluated, the step that it is logged under with each template, and the ids it may be asked."""

    name: str
    path: str
    steps: Mapping[str, int]
    fitting: Set[str] | None


def fitting_problems(stage: EvaluateStage, run: StageRun, paths: Iterable[str]) -> Set[str] | None:
    """The ids of the problems whose prompts fit with every tokenizer and template: all figures are of the same ones.

    None where there is one of either.

    Raises:
        UserError: there are none.
    """
    tokenizers = [load_tokenizer(path, run.model.trust_remote_code) for path in dict.fromkeys(paths)]
    different = {(repr(type(one)), str(one.chat_template), _vocabulary(one)): one for one in tokenizers}
    if len(different) * len(stage.templates) == 1:
        return None
    loaded = [
        load_problems(problems_in(stage.problems, template), tokenizer, run.seed)
        for tokenizer in different.values()
        for template in stage.templates
    ]
    fitting = [{problem.id for problem in chosen_problems(one, stage.part)} for one in loaded]
    common = set.intersection(*fitting)
    if not common:
        raise UserError(
            f"{run.folder.name}: expected problems whose prompts fit with every template and tokenizer, got none: "
            "raise max_prompt_tokens"
        )
    if left := len(set.union(*fitting)) - len(common):
        run.display.note(
            f"{run.folder.name}: {left} problems fit in max_prompt_tokens with one template or tokenizer and not with "
            "another: they are left out of all figures"
        )
    return common


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """What turns text into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else tokenizer.name_or_path


def evaluate(
    stage: EvaluateStage, run: StageRun, asked: _Asked, judges: tuple[Reward, ...], known: Mapping[str, Figures]
) -> Iterator[tuple[str, Figures, list[Row]]]:
    """The figures of one model with each template that is not `known`, and its completions, rows of `samples.jsonl`."""
    name, path, steps, fitting = asked
    policy = load_policy(run.model.model_copy(update={"lora": None}), path)
    policy.model.to(run.accelerator.device)
    prepare_packing(policy.model, policy.tokenizer)  # its notes are about training
    tasks = {
        template: load_task(problems_in(stage.problems, template), judges, policy.tokenizer, run)
        for template in stage.templates
    }
    chosen = {
        template: [
            problem
            for problem in chosen_problems(task.problems, stage.part)
            if fitting is None or problem.id in fitting
        ][: stage.limit]
        for template, task in tasks.items()
    }
    prompts = [tasks[template].problems.prompt_ids[problem.id] for template in tasks for problem in chosen[template]]
    work = Work(prompts, stage.max_new_tokens, 1.0, stage.precision, run.folder, run.model.trust_remote_code)
    engine = make_engine(stage, policy, work)
    WeightPush(engine, probe_of(stage, policy, work))(policy.model, min(steps.values()))
    for template, task in tasks.items():
        if key_of(name, template) in known:
            continue
        clock = Clock()
        with clock("evaluate"):
            labels = {"step": steps[template], "model": name, "template": template}
            rows = _Asking(stage, run, policy, engine, task, chosen[template], labels).all_rows()
        answers = [from_row(row, stage.accuracy) for row in rows]
        yield template, figures_of(answers, wanted(stage)) | clock.figures(), rows
    engine.close()


def problems_in(settings: ProblemSettings, template: str) -> ProblemSettings:
    """The problems under the template that they are trained with, or under the model's own chat template."""
    if template == "training":
        return settings
    native = {"template": TemplateSettings(kind="chat")}
    sources = [source.model_copy(update=native) for source in settings.sources] if settings.sources else None
    return settings.model_copy(update={**native, "sources": sources})


def wanted(stage: EvaluateStage) -> Wanted:
    """The figures of samples that a stage asks for."""
    if not stage.samples:
        return Wanted((), ())
    return Wanted(stage.k, stage.cons, tolerance_of(stage.rewards, stage.accuracy))


def tolerance_of(rewards: Sequence[RewardSettings], accuracy: str) -> Tolerance:
    """How exactly the accuracy reward compares, so that votes are compared likewise."""
    options = next((one.options for one in rewards if (one.name, one.shown_as) == ("accuracy", accuracy)), {})
    return Tolerance(float(options.get("absolute_tolerance", 0.0)), float(options.get("relative_tolerance", 0.0)))


def preferences(rewards: Sequence[RewardSettings]) -> list[str]:
    """The names of rewards that say what is liked, not what is right."""
    return [reward.shown_as for reward in rewards if reward.name in PREFERENCES]


# --- a few problems at a time, so that a crash costs little -----------------------------------------------------------


@dataclass(frozen=True)
class _Asking:
    """One model with one template, and where its completions go until all are there."""

    stage: EvaluateStage
    run: StageRun
    policy: Policy
    engine: Engine
    task: Task
    problems: Sequence[Problem]
    labels: Mapping[str, Any]

    def all_rows(self) -> list[Row]:
        """Every completion, greedy ones first; those of an interrupted run are taken as they are."""
        problems = self.problems
        each = self.stage.samples + self.stage.greedy
        rows = _whole(_partial(self.run, self.labels["step"]), problems, each)
        self.run.accelerator.wait_for_everyone()  # every process has read it before more is written
        self._rewrite(rows)
        start, size = len(rows) // each, max(1, WAVES * self.stage.max_concurrent // each)
        for first in range(start, len(problems), size):
            more = self._ask(problems[first : first + size], first)
            self._append(more)
            rows += more
        return sorted(rows, key=lambda row: not row["greedy"])  # a stable order: problems stay in theirs

    def _ask(self, problems: Sequence[Problem], first: int) -> list[Row]:
        stage, task, limit, stop = self.stage, self.task, self.stage.max_new_tokens, tuple(self.stage.stop)
        likeliest = Sampling(temperature=0.0, max_new_tokens=limit, stop=stop)
        sampling = Sampling(stage.temperature, limit, stage.top_p, stop)
        groups = ask(task, self.engine, self.run, problems, likeliest, 1, 0, first=first) if stage.greedy else []
        kinds = [True] * len(groups)
        if stage.samples:
            groups += ask(task, self.engine, self.run, problems, sampling, stage.samples, 1, first=first)
        kinds += [False] * (len(groups) - len(kinds))
        scored = judge(task, groups, self.run, self.labels["step"], first).groups
        return [row for one, greedy in zip(scored, kinds, strict=True) for row in self._rows(one, greedy)]

    def _rows(self, scored: ScoredGroup, greedy: bool) -> list[Row]:
        problem = scored.group.problem
        prompt = decode(self.policy.tokenizer, scored.group.prompt_ids)
        prefill = opened(self.task.manner(problem.source).template, problem)
        has_scorer = bool(problem.columns.get("reasoning_gym"))
        return [
            {
                **self.labels,
                "greedy": greedy,
                **completion_row(problem, prompt, completion, score),
                "right": is_right(score, self.stage.accuracy),
                "found": found_answer(prefill + completion.text, has_scorer),
                **({"drafts": completion.drafts} if completion.drafts else {}),
                "advantage": None,  # nothing is learned here
                "weight_version": completion.weight_version,
                "mask_reason": None,
            }
            for completion, score in zip(scored.group.completions, scored.scores, strict=True)
        ]

    def _rewrite(self, rows: Sequence[Row]) -> None:
        if self.run.accelerator.is_main_process:
            write_atomic(_partial(self.run, self.labels["step"]), b"".join(map(json_line, rows)))

    def _append(self, rows: Sequence[Row]) -> None:
        path = _partial(self.run, self.labels["step"])
        if self.run.accelerator.is_main_process:
            with full_disk_is_an_answer(path), path.open("ab") as file:
                file.write(b"".join(map(json_line, rows)))
                file.flush()
                sync(path)


def _partial(run: StageRun, step: int) -> Path:
    return run.folder / f"unfinished-{step}.jsonl"


def _whole(path: Path, problems: Sequence[Problem], each: int) -> list[Row]:
    """The rows of the first problems, those that an interrupted run has answered `each` times; the rest is dropped."""
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the end of the file, cut off in the middle of a line
            break
    answered = 0
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    while answered < len(problems) and len(by_problem.get(problems[answered].id, ())) == each:
        answered += 1
    return [row for problem in problems[:answered] for row in by_problem[problem.id]]


# --- going on after a crash: a model that has been evaluated is not evaluated again -----------------------------------


def _read_progress(folder: Path) -> dict[str, Any]:
    file = folder / "progress.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}, "log": None}


def _write_progress(run: StageRun, rows: Mapping[str, Figures], log: RunLog) -> None:
    if run.accelerator.is_main_process:
        write_atomic(run.folder / "progress.json", json.dumps({"rows": rows, "log": log.position()}))
