"""What the loop of a GRPO stage works with, and its smaller moves.

Axes: P prompts of a step, G completions of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grpo.batch import Trajectory, micro_batches
from grpo.correction import correction_of
from grpo.curriculum_settings import unreached_entries
from grpo.experience import has_entropy_bonus
from grpo.experts.load import balance_of
from grpo.feed import check_feed, make_feed, unreached
from grpo.forward import packs
from grpo.grpo_stage import GrpoStage
from grpo.held_out import accuracy_of_sources, chosen_problems, greedy, greedy_figures
from grpo.journal import Rollout, keep_rollouts
from grpo.kl_reward import sequence_kl
from grpo.learner import Learner
from grpo.losses import make_loss
from grpo.losses.entropy import adaptive_coefficient
from grpo.metrics import Clock, peak_memory_mb
from grpo.mtp_loss import mtp_settings, term_at
from grpo.mtp_settings import MtpSettings, RlMtpSettings
from grpo.objective import PolicyGradient
from grpo.policy import Policy, Reference, make_reference
from grpo.rollout.engine import Engine
from grpo.rollout.make_engine import Work, chosen_engine, engine_dtype, make_engine, probe_of
from grpo.rollout.stopping import decode
from grpo.rollout.weights import WeightPush
from grpo.rollouts import RolloutSource, saved_rollouts
from grpo.run import StageRun
from grpo.tally import Tally
from grpo.task import Task, load_judges, load_task
from grpo.training import Training, measured_before, resume, save_if_due, saved_if_lost, starting_policy, tell
from grpo.types import Batch, ScoredGroup, UserError
from grpo.watch import TOTAL, watched, watched_rewards

DRIFT = ("sampler/mismatch_mean", "sampler/mismatch_max", "sampler/kl", "sampler/chi2")
"""Figures that mean something only before the first update of a step: later the policy has moved on purpose.

How far it has moved before the last one is told by the same names with `_last`.
"""

REROUTED = "/rerouted"
"""How the names of such figures end that are about routers."""


@dataclass(frozen=True)
class Parts:
    """A GRPO stage, set up and resumed."""

    stage: GrpoStage
    run: StageRun
    policy: Policy
    reference: Reference | None
    engine: Engine
    push_weights: WeightPush
    task: Task
    source: RolloutSource
    learner: Learner
    training: Training
    mtp: MtpSettings | None

    def at(self, step: int) -> "Parts":
        """The same with the settings of a step."""
        stage = self.stage.at(step)
        return replace(self, stage=stage, source=replace(self.source, stage=stage))

    def micro_batches(self, minibatch: Sequence[Trajectory]) -> list[Batch]:
        """The micro-batches of a minibatch."""
        accelerator = self.learner.accelerator
        share, processes = packs(self.policy.model), accelerator.num_processes
        return micro_batches(minibatch, self.stage.tokens_per_micro_batch, accelerator.device, processes, share)

    def objective(self, batches: Sequence[Batch]) -> PolicyGradient:
        """The loss of a minibatch as the recipe has it, with the entropy coefficient of this step."""
        return PolicyGradient(
            surrogate=make_loss(self.stage.loss),
            temperature=self.stage.rollout.temperature,
            kl=self.stage.kl,
            reference=self.reference,
            entropy_coefficient=active_coefficient(self.stage, self.training),
            correction=correction_of(self.stage),
            balance=balance_of(self.learner, [b.tokens for b in batches], [b.replayed_routes_TLK for b in batches]),
            mtp=term_at(self.mtp, self.training.progress.step, self.stage.steps),
        )

    def read(self, token_ids: Sequence[int]) -> str:
        """Tokens as text."""
        return decode(self.policy.tokenizer, token_ids)


def set_up(stage: GrpoStage, run: StageRun) -> Parts:
    """Load and check everything before anything is sampled, then go on from the newest checkpoint."""
    policy = starting_policy(run)
    task = load_task(stage.problems, load_judges(stage.rewards, run), policy.tokenizer, run)
    feed = make_feed(stage.problems, task.problems.train, run.seed, stage.curriculum)
    check_feed(feed, stage.problems, stage.prompts_per_step)
    later = unreached_entries(
        stage.steps, length_schedule=stage.length_schedule, temperature_schedule=stage.temperature_schedule
    )
    for note in (*unreached(feed, stage.steps), *later):
        run.display.note(f"{run.folder.name}: {note}")
    prompts = list(task.problems.prompt_ids.values())  # those held out are asked too
    mtp = mtp_settings(policy.model, stage.mtp, RlMtpSettings())
    learner = Learner(policy.model, stage, stage.steps, run.accelerator)
    reference = make_reference(policy) if stage.kl.beta > 0 else None  # a copy computes as the learner's model does
    training = resume(run, policy, learner, reference, entropy_coefficient=stage.entropy.bonus)
    rollout = stage.rollout
    work = Work(
        prompts,
        stage.longest_completion,
        rollout.temperature,
        stage.sampling_precision,
        run.folder,
        run.model.trust_remote_code,
        tells_routes=stage.experts.routing_replay == "sampler",
    )
    engine_name = chosen_engine(rollout, policy.model.config)
    run.display.note(f"{run.folder.name}: {engine_name} samples the completions")
    rounds = engine_name != "transformers" and engine_dtype(rollout, policy, work) == "bfloat16"
    if stage.loss.kind == "gspo" and stage.correction is None and rounds:
        raise UserError(
            f"{run.folder.name}: loss gspo clips where a sequence's mean ratio is off by 3e-4, and an engine in "
            "bfloat16 rounds by more: say correction: {kind: token_truncate}, for a ratio to the learner's own policy"
        )
    engine = make_engine(rollout, policy, work)
    push_weights = WeightPush(engine, probe_of(rollout, policy, work))
    checked = push_weights(policy.model, version=training.progress.step)
    saved = saved_rollouts(run.folder / "rollouts", training.progress.step, task.problems.train)
    run.accelerator.wait_for_everyone()  # every process has seen the same rollouts before a new one is written
    if run.accelerator.is_main_process:
        keep_rollouts(run.folder / "rollouts", saved)
    source = RolloutSource(stage, run, task, engine, saved, feed)
    parts = Parts(stage, run, policy, reference, engine, push_weights, task, source, learner, training, mtp)
    if stage.kl.beta > 0 and (stage.kl.place, stage.kl.estimator) == ("loss", "k1"):
        run.display.note("kl: k1 in the loss has gradient 0 on average and holds nothing back; place: reward does")
    liked = [name for name in watched_rewards(stage) if name != TOTAL]
    if stage.evaluation is None and liked:
        run.display.note(f"{', '.join(liked)}: without an evaluation nobody sees it being gamed")
    run.display.stage(run.number, run.folder.name, stage.kind, stage.steps)
    if training.progress.step == 0 and stage.evaluation is not None:
        measured_before(training, evaluate_if_due(parts, 0))
    if training.progress.untold is not None:
        measure(parts, checked)
        save_if_due(training, stage.steps)
    return parts


def reward_kl(parts: Parts, scored: Sequence[ScoredGroup]) -> Tensor:
    """The KL of every completion, (P, G), that the penalty takes from its reward; 0 when its place is the loss."""
    stage = parts.stage
    if parts.reference is None or stage.kl.place == "loss":
        return torch.zeros(())
    return sequence_kl(scored, stage, parts.learner, parts.reference)


def step_figures(rollout: Rollout, tallies: Sequence[Tally], clock: Clock, kl_PG: Tensor) -> dict[str, float]:
    """The figures of a step: its rollout, the mean over its updates, times and memory. `kl` is a mean over tokens."""
    updates = Tally()
    for tally in tallies:
        updates.merge(tally)
    learned = updates.figures()
    learned["loss"] /= len(tallies)
    signal = [tally.figures() for tally in tallies if "no_signal" not in tally.sums]
    if signal:
        learned |= {name: value for name, value in signal[0].items() if name in DRIFT or REROUTED in name}
    if len(signal) > 1:
        learned |= {f"{name}_last": signal[-1][name] for name in DRIFT if name in signal[-1]}
    figures = dict(rollout.figures) | learned | clock.figures() | {"memory/peak_mb": peak_memory_mb()}
    if kl_PG.ndim:
        tokens = sum(len(completion.token_ids) for scored in rollout.scored for completion in scored.group.completions)
        figures["kl"] = kl_PG.sum().item() / tokens
    figures["tokens/learn_per_s"] = learned.get("tokens", 0.0) / clock.seconds("learn")
    return figures


def evaluate_if_due(parts: Parts, step: int) -> dict[str, float]:
    """Greedy accuracy on held-out problems before the first step, every so often, and after the last."""
    settings, stage = parts.stage.evaluation, parts.stage
    if settings is None or (step % settings.every and step != stage.steps):
        return {}
    problems = chosen_problems(parts.task.problems, "held_out")[: settings.problems]
    clock = Clock()
    with clock("evaluate"):
        rollout = stage.rollout
        limit = stage.at(max(step, 1)).rollout.max_new_tokens
        scored = greedy(parts.task, parts.engine, parts.run, problems, limit, rollout.stop)
    measured = greedy_figures(scored, settings.accuracy) | accuracy_of_sources(scored, settings.accuracy)
    if "accuracy" not in measured:
        parts.run.display.note(
            f"step {step}: reward {settings.accuracy} applies to none of the {len(problems)} problems that evaluation "
            "asks, so there is no accuracy to watch: ask more of them, or name another reward as evaluation.accuracy"
        )
    figures = {f"evaluation/{name}": value for name, value in measured.items()}
    return figures | clock.figures()


def measure(parts: Parts, checked: Mapping[str, float]) -> None:
    """Evaluate where that is due, and tell the step that was learned. A run that goes on after a lost engine does it
    for the step that had been saved without.
    """
    training = parts.training
    with saved_if_lost(training):
        figures = {**checked, **evaluate_if_due(parts, training.progress.step)}
    tell(training, figures | watch(parts, training.progress.measured | figures))


def active_coefficient(stage: GrpoStage, training: Training) -> float:
    """The entropy coefficient in force. With a target it works only while entropy is at most the target."""
    coefficient, target = training.progress.entropy_coefficient, stage.entropy.target
    entropy = training.progress.figures.get("entropy")
    return coefficient if target is None or (entropy is not None and entropy <= target) else 0.0


def watch(parts: Parts, figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of the watch for reward hacking, where there is held-out accuracy to hold rewards to."""
    weights, before = watched_rewards(parts.stage), parts.training.progress.figures
    return watched(before, figures, weights) if weights and parts.stage.evaluation is not None else {}


def between_steps(parts: Parts, step: int, figures: Mapping[str, float]) -> dict[str, float]:
    """Adapt the entropy coefficient, and let the reference catch up when the recipe says so.

    Returns `entropy/coefficient`, that of the step to come, where entropy can enter the loss.
    """
    entropy, progress = parts.stage.entropy, parts.training.progress
    if entropy.target is not None and "entropy" in figures:
        coefficient, _ = adaptive_coefficient(
            progress.entropy_coefficient, figures["entropy"], entropy.target, entropy.delta
        )
        progress.entropy_coefficient = coefficient
    every = parts.stage.kl.refresh_reference_every
    if parts.reference is not None and every is not None and step % every == 0:
        parts.reference.refresh(parts.policy)
    return {"entropy/coefficient": progress.entropy_coefficient} if has_entropy_bonus(parts.stage) else {}
