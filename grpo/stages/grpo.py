"""Group relative policy optimization: sample groups, score them, compare within groups, learn, again.

Axes: P prompts of a step, G completions of a prompt.
"""

from grpo.correction import first_pass
from grpo.experience import mask_reasons, minibatches, step_advantages
from grpo.experts.health import step_load
from grpo.feed import after_all, curriculum_figures
from grpo.grpo_stage import GrpoStage
from grpo.journal import prune_rollouts
from grpo.learner import train_step
from grpo.metrics import Clock, sample_rows
from grpo.rollouts import roll_out
from grpo.run import StageRun
from grpo.stages.grpo_parts import between_steps, measure, reward_kl, set_up, step_figures
from grpo.training import finish, learned, save_if_due, saved_if_lost


def run(stage: GrpoStage, run: StageRun) -> None:
    """Train with the stage's rewards and leave `model/`."""
    whole = set_up(stage, run)
    training, progress = whole.training, whole.training.progress

    while progress.step < stage.steps:
        clock, step = Clock(), progress.step + 1
        parts = whole.at(step)
        with saved_if_lost(training):
            rollout = roll_out(parts.source, step, progress.feed)
        parts.engine.rest()
        kl_PG = reward_kl(parts, rollout.scored)
        advantages_PG = step_advantages(rollout.scored, kl_PG, stage)
        with clock("learn"):
            first = first_pass(rollout.scored, parts.stage, parts.learner)
            tallies = [
                train_step(parts.learner, batches, parts.objective(batches), progress.step)
                for batches in map(parts.micro_batches, minibatches(rollout.scored, first, advantages_PG, stage))
            ]

        figures = step_figures(rollout, tallies, clock, kl_PG)
        reasons_PG = mask_reasons(rollout.scored, stage.mask_truncated)
        samples = sample_rows(step, rollout.scored, advantages_PG, reasons_PG, parts.read, stage.token_logprobs)
        figures |= between_steps(parts, step, figures)
        progress.feed = after_all(progress.feed, rollout.changes, stage.curriculum)
        figures |= curriculum_figures(parts.source.feed, progress.feed)
        learned(training, rollout.consumed, figures, samples, step_load(tallies))

        with saved_if_lost(training), clock("sync"):
            checked = parts.push_weights(parts.policy.model, version=step)
        measure(parts, checked | clock.figures())
        if save_if_due(training, stage.steps) and run.accelerator.is_main_process:
            prune_rollouts(parts.source.folder, step)
    whole.engine.close()
    finish(training)
