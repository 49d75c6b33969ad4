"""Supervised fine-tuning: cross-entropy on the completions of a data set, packed."""

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from grpo.batch import pack
from grpo.data import left_out, load_problems
from grpo.distillation import Distillation, load_teacher
from grpo.experts.health import step_load
from grpo.experts.load import balance_of
from grpo.families import positions
from grpo.feed import after, check_feed, make_feed, take, unreached
from grpo.forward import packs
from grpo.learner import Learner, train_step
from grpo.metrics import Clock, peak_memory_mb
from grpo.mtp_loss import MtpTerm, mtp_settings, term_at
from grpo.mtp_settings import UNMOVED, MtpSettings
from grpo.objective import CrossEntropy
from grpo.policy import Policy
from grpo.run import StageRun
from grpo.sft_stage import SftStage
from grpo.sources import is_text
from grpo.split import split
from grpo.teacher_settings import TeacherSettings
from grpo.templates import encode_example, make_template
from grpo.training import advance, finish, resume, save_if_due, starting_policy
from grpo.types import PackedTokens, Problem, TokenSequence, UserError


def run(stage: SftStage, run: StageRun) -> None:
    """Train on the data set's completions and leave `model/`."""
    policy = starting_policy(run)
    problems = load_problems(stage.problems, policy.tokenizer, run.seed)
    for note in left_out(problems, stage.problems):
        run.display.note(note)
    feed = make_feed(stage.problems, problems.train, run.seed)
    check_feed(feed, stage.problems, stage.examples_per_step)
    examples = encode(problems.train, stage, policy.tokenizer, positions(policy.model.config))
    steps = stage.steps or -(-len(examples) * (stage.epochs or 0) // stage.examples_per_step)
    for note in unreached(feed, steps):
        run.display.note(f"{run.folder.name}: {note}")
    teacher = None if stage.teacher is None else _teacher(stage.teacher, policy, run)
    mtp = mtp_settings(policy.model, stage.mtp, MtpSettings() if teacher is None else UNMOVED)
    learner = Learner(policy.model, stage, steps, run.accelerator, dropout=True)
    training = resume(run, policy, learner, reference=None)
    run.display.stage(run.number, run.folder.name, stage.kind, steps)

    while training.progress.step < steps:
        clock = Clock()
        progress = training.progress
        drawn, change = take(feed, progress.feed, progress.step + 1, stage.examples_per_step)
        sequences = [examples[problem.id] for problem in drawn]
        target_tokens = sum(len(sequence.target_ids) for sequence in sequences)
        with clock("learn"):
            batches = packed(sequences, stage.tokens_per_micro_batch, learner)
            objective = _objective(
                stage, learner, batches, target_tokens, teacher, term_at(mtp, training.progress.step, steps)
            )
            tally = train_step(learner, batches, objective, training.progress.step)
        speed = sum(map(len, sequences)) / clock.seconds("learn")
        figures = tally.figures() | clock.figures() | {"tokens/learn_per_s": speed, "memory/peak_mb": peak_memory_mb()}
        progress.feed = after(progress.feed, change)
        advance(training, len(drawn), figures, [], step_load([tally]))
        save_if_due(training, steps)
    finish(training)


def _teacher(settings: TeacherSettings, policy: Policy, run: StageRun) -> nn.Module:
    teacher, notes = load_teacher(settings, policy, run.accelerator.device)
    for note in notes:
        run.display.note(note)
    return teacher


def _objective(
    stage: SftStage,
    learner: Learner,
    batches: Sequence[PackedTokens],
    target_tokens: int,
    teacher: nn.Module | None,
    mtp: MtpTerm | None,
) -> CrossEntropy | Distillation:
    balance = balance_of(learner, batches)
    if teacher is None or stage.teacher is None:
        return CrossEntropy(target_tokens, balance, mtp)
    return Distillation(target_tokens, teacher, stage.teacher.share, balance)


def encode(
    problems: Sequence[Problem], stage: SftStage, tokenizer: PreTrainedTokenizerBase, room: int | None
) -> Mapping[str, TokenSequence]:
    """The tokens of every example by problem id.

    Raises:
        UserError: an example has no completion, or is longer than the model's `room` of positions.
    """
    manners = zip(stage.problems.names, stage.problems.each, strict=True)
    templates = {name: make_template(source.template, tokenizer) for name, source in manners}
    column = stage.completion_column
    for problem in problems:
        if not is_text(problem.columns.get(column)):
            raise UserError(
                f"stage sft: problem {problem.prompt[:60]!r} has no text in column {column!r} (columns: "
                f"{', '.join(problem.columns)}); set completion_column to the column to learn from"
            )
    examples = {
        problem.id: TokenSequence(
            *encode_example(templates[problem.source], tokenizer, problem, problem.columns[column])
        )
        for problem in problems
    }
    longest = max(map(len, examples.values()))
    if room is not None and longest > room:
        raise UserError(
            f"stage sft: an example has {longest} tokens and the model {room} positions: shorten the data or "
            "take a model with more"
        )
    return examples


def packed(sequences: Sequence[TokenSequence], budget: int, learner: Learner) -> list[PackedTokens]:
    """Micro-batches of whole examples within a token budget."""
    parts = split(sequences, budget, learner.accelerator.num_processes, packs(learner.model))
    return [pack([sequences[i] for i in part], learner.accelerator.device) for part in parts]
