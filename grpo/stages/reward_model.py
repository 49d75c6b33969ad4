"""A reward model: a scalar head on any backbone, which learns from pairs or from labels."""

from collections.abc import Sequence
from typing import Any

import torch

from grpo.data import ProblemSet, check_enough, draw, left_out, load_problems
from grpo.families import positions
from grpo.learner import Learner, train_step
from grpo.metrics import Clock, peak_memory_mb
from grpo.policy import Policy, add_lora
from grpo.preference import Example, PreferenceLoss, evaluated, preference_batches
from grpo.reward_model_stage import RewardModelStage
from grpo.reward_reading import Card, Read, by_template, write_card
from grpo.run import StageRun
from grpo.scalar_model import load_scalar_model
from grpo.sources import is_text
from grpo.training import Training, advance, finish, measured_before, resume, save_if_due
from grpo.types import Problem, UserError, one_line


def run(stage: RewardModelStage, run: StageRun) -> None:
    """Train on the data set's preferences and leave `model/`, for transformers' AutoModelForSequenceClassification."""
    policy = starting_model(run)
    data = load_problems(stage.problems, policy.tokenizer, run.seed)
    for note in left_out(data, stage.problems):
        run.display.note(note)
    examples = encode(data, stage, policy, run)
    train = [problem for problem in data.train if problem.id in examples]
    held_out = [examples[problem.id] for problem in data.held_out if problem.id in examples]
    check_enough(train, stage.examples_per_step, stage.problems)
    steps = stage.steps or -(-len(train) * (stage.epochs or 0) // stage.examples_per_step)
    learner = Learner(policy.model, stage, steps, run.accelerator, dropout=True)
    training = resume(run, policy, learner, reference=None)
    run.display.stage(run.number, run.folder.name, stage.kind, steps)
    _measure_before(training, stage, held_out, steps)

    while training.progress.step < steps:
        clock, step = Clock(), training.progress.step + 1
        drawn = draw(train, run.seed, training.progress.consumed, stage.examples_per_step)
        with clock("learn"):
            batches = preference_batches([examples[p.id] for p in drawn], learner)
            tally = train_step(learner, batches, PreferenceLoss(stage.center), training.progress.step)
        with clock("evaluate"):
            measured = figures_if_due(training, stage, held_out, step, steps)
        speed = tally.figures()["tokens"] / clock.seconds("learn")
        figures = tally.figures() | measured | clock.figures()
        advance(training, len(drawn), figures | {"tokens/learn_per_s": speed, "memory/peak_mb": peak_memory_mb()}, [])
        save_if_due(training, steps)
    finish(training)
    if run.accelerator.is_main_process:
        write_card(run.folder / "model", Card(stage.judges, stage.objective, stage.problems.template))
    run.display.table(f"{run.folder.name}: held-out examples", [_row(training.progress.figures)])


def starting_model(run: StageRun) -> Policy:
    """The backbone with a scalar head, on its device: a new head, unless the model has one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed + run.number)
        settings = run.model
        model, tokenizer = load_scalar_model(run.start_model, settings.dtype, True, settings.trust_remote_code)
        adapted = model if settings.lora is None else add_lora(model, settings.lora, "SEQ_CLS")
    adapted.to(run.accelerator.device)
    return Policy(adapted, tokenizer, run.start_model)


# --- the data ---------------------------------------------------------------------------------------------------------


def encode(data: ProblemSet, stage: RewardModelStage, policy: Policy, run: StageRun) -> dict[str, Example]:
    """The examples of both parts by problem id, without those that are too long or have two equal texts.

    Raises:
        UserError: a response or a label is not what it should be, or nothing is held out.
    """
    read = by_template(stage.problems.template, policy.tokenizer, stage.judges)
    problems = [*data.train, *data.held_out]
    every = {problem.id: example(problem, stage, read) for problem in problems}
    longest = min(stage.max_tokens, positions(policy.model.config) or stage.max_tokens)
    fitting = {id: one for id, one in every.items() if len(one) <= longest}
    told_apart = {id: one for id, one in fitting.items() if len(set(one.texts)) == len(one.texts)}
    long, same = len(every) - len(fitting), len(fitting) - len(told_apart)
    if long:
        run.display.note(f"{long} examples longer than {longest} tokens are left out")
    if same:
        run.display.note(f"{same} pairs whose judged texts are the same are left out")
    if not any(problem.id in told_apart for problem in data.held_out):
        raise UserError(
            f"{run.folder.name}: expected held-out examples to measure the reward model on, got none: raise "
            "problems.held_out or add data"
        )
    return told_apart


def example(problem: Problem, stage: RewardModelStage, read: Read) -> Example:
    """A row of the data as tokens. Raises UserError when a column is not what the stage says."""
    if stage.objective == "pairwise":
        better, worse = (_text(problem, column) for column in (stage.chosen_column, stage.rejected_column))
        return Example((read(problem, better, True), read(problem, worse, True)))
    return Example((read(problem, _text(problem, stage.response_column), True),), _label(problem, stage.label_column))


def _text(problem: Problem, column: str) -> str:
    """A response: text, or messages of which the last is the assistant's."""
    value = problem.columns.get(column)
    if isinstance(value, list) and value and isinstance(value[-1], dict) and value[-1].get("role") == "assistant":
        value = value[-1].get("content") if len(value) <= 2 else None  # one turn, with or without the question
    if not is_text(value):
        raise UserError(
            f"stage reward_model: problem {problem.prompt[:60]!r}: expected a response in column {column!r}, text or "
            f"one turn of messages, got {str(problem.columns.get(column))[:60]!r}: name the right column"
        )
    return str(value)


def _label(problem: Problem, column: str) -> float:
    value = problem.columns.get(column)
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise UserError(
            f"stage reward_model: problem {problem.prompt[:60]!r}: expected a label from 0 to 1, or true or false, in "
            f"column {column!r}, got {one_line(repr(value), 60)}: name the right column"
        )
    return float(value)


# --- figures ----------------------------------------------------------------------------------------------------------


def figures_if_due(
    training: Training, stage: RewardModelStage, held_out: Sequence[Example], step: int, last: int
) -> dict[str, float]:
    """How right the model is on held-out examples, before the first step, every so often, and after the last."""
    if step % stage.evaluation.every and step != last:
        return {}
    learner = training.learner
    with learner.autocast():
        found = evaluated(learner.model, held_out[: stage.evaluation.examples], learner.settings.tokens_per_micro_batch)
    return {f"evaluation/{name}": value for name, value in found.items()}


def _measure_before(training: Training, stage: RewardModelStage, held_out: Sequence[Example], last: int) -> None:
    if training.progress.step == 0:
        measured_before(training, figures_if_due(training, stage, held_out, 0, last))


def _row(figures: dict[str, float]) -> dict[str, Any]:
    """The closing table's line."""
    found = {name: figures[f"evaluation/{name}"] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    names = ("loss", "calibration_error", "brier", "roc_area", "score_mean", "score_std")
    return {
        "accuracy": "{accuracy:.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}]".format(**found),
        **{n: f"{figures[f'evaluation/{n}']:.3f}" for n in names if f"evaluation/{n}" in figures},
        "examples": f"{figures['evaluation/examples']:.0f}",
    }
