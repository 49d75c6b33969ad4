"""A training stage in progress: what it resumes from and what it saves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from grpo.checkpoint import (
    Checkpoint,
    beats,
    load_latest,
    prune,
    require_figure,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from grpo.doctor.reader import catch_up
from grpo.doctor.rounds import Rounds
from grpo.feed import FeedState
from grpo.forward import prepare_packing
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner
from grpo.metrics import RunLog
from grpo.policy import Policy, Reference, load_policy, lost_by_merging, save_policy
from grpo.pretrained import load_config
from grpo.run import StageRun
from grpo.training_settings import TrainingSettings
from grpo.types import EngineLost, UserError

LOST = 0.05
"""Share of what adapters learned whose loss is worth a note."""


@dataclass(frozen=True)
class Untold:
    """What the logs do not have yet of a step that has changed the policy, beside its figures."""

    samples: list[dict[str, Any]]
    load: list[list[float]] | None


@dataclass
class Progress:
    """How far a stage has come.

    `figures` holds the newest value of every figure, however long ago it was measured, `measured` those of this step,
    `untold` the rest of its rows until they are logged.
    """

    step: int = 0
    consumed: int = 0
    entropy_coefficient: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    untold: Untold | None = None
    feed: FeedState = field(default_factory=FeedState)


@dataclass(frozen=True)
class Training:
    """The parts of a stage that a checkpoint holds."""

    run: StageRun
    policy: Policy
    learner: Learner
    reference: Reference | None
    log: RunLog
    progress: Progress
    rounds: Rounds


def starting_policy(run: StageRun) -> Policy:
    """The model that the stage starts from, on its device, ready for packed sequences."""
    if getattr(load_config(run.start_model, run.model.trust_remote_code), "quantization_config", None) is not None:
        raise UserError(
            f"{run.start_model}: expected weights to train, got quantised ones, of which only what is not quantised "
            "would be trained: give the model as it was before"
        )
    policy = load_policy(run.model, run.start_model, seed=run.seed + run.number)
    policy.model.to(run.accelerator.device)
    for note in prepare_packing(policy.model, policy.tokenizer):
        run.display.note(note)
    return policy


def resume(
    run: StageRun, policy: Policy, learner: Learner, reference: Reference | None, entropy_coefficient: float = 0.0
) -> Training:
    """Bring model, optimizer, reference and random generators to the newest sound checkpoint, if there is one."""
    accelerator = run.accelerator
    rounds = Rounds(run.folder.name, run.number - 1, learner.settings)
    with accelerator.main_process_first():  # the first may move a broken checkpoint aside
        checkpoint, notes = load_latest(run.folder / "checkpoints")
    for note in [*learner.notes, *notes]:
        run.display.note(note)
    if checkpoint is None:
        log = RunLog.open(run.folder, run.folder.name, accelerator, position=None)
        return Training(run, policy, learner, reference, log, Progress(entropy_coefficient=entropy_coefficient), rounds)
    _restore(checkpoint, policy, learner, reference, accelerator.process_index)
    stage = dict(checkpoint.progress["stage"])
    feed = FeedState(**stage.pop("feed", {"places": {"": stage["consumed"]}}))
    measured, untold = dict(checkpoint.figures), stage.pop("untold", None)
    progress = Progress(**{"figures": dict(measured), **stage}, measured=measured, feed=feed)
    progress.untold = None if untold is None else Untold(**untold)
    learner.bad_steps_in_a_row = checkpoint.progress["bad_steps_in_a_row"]
    run.display.note(f"{run.folder.name} goes on after step {progress.step}")
    log = RunLog.open(run.folder, run.folder.name, accelerator, position=checkpoint.progress["log"])
    if accelerator.is_main_process:  # of the others nobody hears
        catch_up(rounds, run.folder)
        rounds.forget_what_was_said()
    return Training(run, policy, learner, reference, log, progress, rounds)


def _restore(
    checkpoint: Checkpoint, policy: Policy, learner: Learner, reference: Reference | None, process: int
) -> None:
    missing, unexpected = policy.model.load_state_dict(dict(checkpoint.model), strict=False)
    if unexpected or set(missing) - _frozen(policy.model):
        raise UserError(
            f"the checkpoint of step {checkpoint.step} is of another model: expected the parameters of "
            f"{type(policy.model).__name__}, got others ({[*unexpected, *missing][0]}): bring back the model that the "
            "stage began with, or do the stage again with --from"
        )
    if len(checkpoint.rng) != learner.accelerator.num_processes:
        raise UserError(
            f"checkpoint of step {checkpoint.step} was made by {len(checkpoint.rng)} processes, this run has "
            f"{learner.accelerator.num_processes}: launch it with as many"
        )
    learner.optimizer.load_state_dict(dict(checkpoint.optimizer))
    if reference is not None:
        reference.load_state_dict(checkpoint.reference)
    restore_rng(checkpoint.rng[process])


def trained_state(policy: Policy) -> dict[str, Tensor]:
    """Every tensor that training may change: all of a full model, the adapter alone under LoRA."""
    frozen = _frozen(policy.model)
    return {name: tensor for name, tensor in policy.model.state_dict().items() if name not in frozen}


def _frozen(model: nn.Module) -> set[str]:
    """The names of parameters that training leaves alone, both names of a tied one."""
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def advance(
    training: Training,
    consumed: int,
    figures: Mapping[str, float],
    samples: list[dict[str, Any]],
    load_LE: Tensor | None = None,
) -> None:
    """End a step after which nothing is left to measure."""
    learned(training, consumed, figures, samples, load_LE)
    tell(training, {})


def learned(
    training: Training,
    consumed: int,
    figures: Mapping[str, float],
    samples: list[dict[str, Any]],
    load_LE: Tensor | None = None,
) -> None:
    """Count a step that has changed the policy, with the load of experts (L routers, E experts); `tell` ends it."""
    progress = training.progress
    progress.step += 1
    progress.consumed += consumed
    progress.measured = dict(figures)
    progress.untold = Untold(samples, None if load_LE is None else load_LE.tolist())


def tell(training: Training, figures: Mapping[str, float]) -> None:
    """Log the step that was learned, with what was measured after it, show it, and see how it fares."""
    progress, untold = training.progress, training.progress.untold
    assert untold is not None, "every step is told once"
    progress.untold = None
    progress.measured |= figures
    progress.figures |= progress.measured
    settings = training.learner.settings
    if not progress.measured.get("no_signal"):
        require_figure(settings.keep_best, progress.figures.keys() | later_figures(settings))
    load_LE = None if untold.load is None else torch.tensor(untold.load)
    training.log.write(progress.step, progress.measured, untold.samples, load_LE)
    training.run.display.step(progress.step, progress.measured, untold.samples[0] if untold.samples else None)
    training.run.display.findings(training.rounds.after(progress.step, progress.measured, untold.load))


def later_figures(settings: TrainingSettings) -> set[str]:
    """The figures of sources, rewards and the watch over them that may not begin before later steps of a stage."""
    if not isinstance(settings, GrpoStage):
        return set()
    rewards = ["mean", *(reward.shown_as for reward in settings.rewards)]
    sources = [source.shown_as for source in settings.problems.sources or ()]
    figures = {f"reward/{name}" for name in rewards}
    figures |= {f"source/{source}/{name}" for source in sources for name in ("groups", "length_mean", *rewards)}
    if settings.evaluation is not None:
        figures |= {f"evaluation/reward/{name}" for name in rewards} | {"watch/parted"}
        figures |= {f"evaluation/source/{source}/accuracy" for source in sources}
    return figures


def measured_before(training: Training, figures: Mapping[str, float]) -> None:
    """Log what was measured before the first step; `keep_best` may name it from the first checkpoint on."""
    training.log.write(0, figures, [])
    training.rounds.after(0, figures)
    training.progress.figures |= figures


def save_if_due(training: Training, last_step: int) -> bool:
    """Save every `checkpoint_every` steps, after the best evaluation for `keep_best`, and after the last step: saving
    the result may fail too.
    """
    step = training.progress.step
    due = step % training.learner.settings.checkpoint_every == 0 or step == last_step or _is_best_evaluation(training)
    if due:
        save(training)
    return due


def _is_best_evaluation(training: Training) -> bool:
    """Whether `keep_best` names an evaluation, which is rarer than steps, and no checkpoint is as good as this step."""
    figure, measured = training.learner.settings.keep_best or "", training.progress.measured
    if not figure.startswith("evaluation/") or figure not in measured:
        return False
    is_main_process = training.learner.accelerator.is_main_process  # the others may see the folder later
    answer = [is_main_process and beats(training.run.folder / "checkpoints", figure, measured[figure])]
    return bool(broadcast_object_list(answer)[0])


@contextmanager
def saved_if_lost(training: Training) -> Iterator[None]:
    """Save before the run ends because its engine is lost. Inside the block nothing of the stage may change."""
    try:
        yield
    except EngineLost:
        if training.progress.untold or training.progress.step % training.learner.settings.checkpoint_every:
            save(training)
        raise


def save(training: Training) -> None:
    """Write a checkpoint of this very moment and drop those that retention does not ask for."""
    settings, accelerator = training.learner.settings, training.learner.accelerator
    rng: list[Any] = [rng_state()] if accelerator.num_processes == 1 else gather_object([rng_state()])
    if accelerator.is_main_process:
        progress = training.progress
        checkpoint = Checkpoint(
            step=progress.step,
            model=trained_state(training.policy),
            optimizer=training.learner.optimizer.state_dict(),
            reference={} if training.reference is None else training.reference.state_dict(),
            rng=rng,
            progress={
                "stage": {name: value for name, value in asdict(progress).items() if name != "measured"},
                "bad_steps_in_a_row": training.learner.bad_steps_in_a_row,
                "log": training.log.position(),
            },
            figures=progress.measured,
        )
        folder = training.run.folder / "checkpoints"
        save_checkpoint(folder, checkpoint)
        prune(folder, settings.keep_last, settings.keep_best)
    accelerator.wait_for_everyone()


def finish(training: Training) -> Path:
    """Leave the stage's model in its folder and close the log."""
    folder = training.run.folder / "model"
    if training.learner.accelerator.is_main_process:
        if (lost := lost_by_merging(training.policy.model)) > LOST:
            training.run.display.note(
                f"{training.run.folder.name}: rounding takes {lost:.0%} of what adapters learned as they are merged "
                "into the model's 16-bit weights: model.dtype: float32 keeps it"
            )
        save_policy(training.policy, folder)
    training.log.close()
    training.learner.accelerator.wait_for_everyone()
    return folder
