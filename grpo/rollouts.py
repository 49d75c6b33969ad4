"""A step's rollout: problems drawn, completions sampled and scored, groups without signal replaced when asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grpo.advantages import keep_groups
from grpo.evaluation import RIGHT
from grpo.experience import part_matrix, reward_matrix
from grpo.feed import Feed, FeedChange, FeedState, Visit, after, take
from grpo.grpo_stage import GrpoStage
from grpo.journal import Rollout, read_rollout, write_rollout
from grpo.metrics import Clock
from grpo.rewards.registry import Reward
from grpo.rewards.score import RewardFailure, Scoring, reward_figures
from grpo.rollout.collect import rollout_figures
from grpo.rollout.engine import Engine, Sampling
from grpo.run import StageRun
from grpo.task import Task, ask, judge
from grpo.types import Problem, ScoredGroup, UserError


@dataclass(frozen=True)
class RolloutSource:
    """What rollouts are made with.

    `saved` holds those of an interrupted run by step, already sampled and scored, until they are asked for.
    """

    stage: GrpoStage
    run: StageRun
    task: Task
    engine: Engine
    saved: dict[int, Rollout]
    feed: Feed

    @property
    def folder(self) -> Path:
        """Where rollouts wait until a checkpoint has learned from them."""
        return self.run.folder / "rollouts"


def saved_rollouts(folder: Path, after_step: int, problems: Sequence[Problem]) -> dict[int, Rollout]:
    """The whole rollouts that an interrupted run left for the steps after a checkpoint, in a row from it."""
    by_id = {problem.id: problem for problem in problems}
    found: dict[int, Rollout] = {}
    step = after_step + 1
    while (rollout := read_rollout(folder, step, by_id)) is not None:
        found[step] = rollout
        step += 1
    return found


def roll_out(source: RolloutSource, step: int, state: FeedState) -> Rollout:
    """The rollout of a step, from the problems that come next in `state`: the saved one, or a new one, saved.

    With dynamic sampling, groups whose rewards do not differ are replaced by groups of further problems (DAPO, arXiv
    2503.14476, section 3.2) until the step is full or `max_rounds` is reached; figures describe all that was sampled.

    Raises:
        UserError: rewards failed on more than `max_reward_errors` of the completions.
    """
    if step in source.saved:
        return source.saved.pop(step)
    stage, wanted = source.stage, source.stage.prompts_per_step
    rounds = stage.dynamic_sampling.max_rounds if stage.dynamic_sampling else 1
    kept: list[ScoredGroup] = []
    everything: list[ScoredGroup] = []
    failures: list[RewardFailure] = []
    changes: list[FeedChange] = []
    clock = Clock()
    for number in range(rounds):
        if len(kept) == wanted:
            break
        problems, drawn = take(source.feed, state, step, wanted - len(kept))
        scored, failed, _ = _one_round(source, (step, number), problems, clock)
        changes.append(replace(drawn, visits=visits(scored, source.feed)))
        state = after(state, changes[-1], source.feed.curriculum)
        everything += scored
        failures += failed
        check_failures(Scoring(everything, failures), source.task.rewards, stage.max_reward_errors, step)
        kept += _with_signal(scored, stage)
    kept = kept or everything[-wanted:]  # nothing has signal: the step says so instead of failing
    figures = clock.figures() | _figures(everything, kept, clock.seconds("rollout"))
    if stage.length_schedule:
        figures["completion/limit"] = float(stage.rollout.max_new_tokens)
    if stage.temperature_schedule:
        figures["temperature"] = stage.rollout.temperature
    rollout = Rollout(step, len(everything), kept, figures, tuple(changes))
    if source.run.accelerator.is_main_process:
        write_rollout(source.folder, rollout)
    return rollout


def _one_round(source: RolloutSource, place: tuple[int, int], problems: Sequence[Problem], clock: Clock) -> Scoring:
    stage, task = source.stage, source.task
    sampling = Sampling(stage.rollout.temperature, stage.rollout.max_new_tokens, stop=tuple(stage.rollout.stop))
    with clock("rollout"):
        groups = ask(task, source.engine, source.run, problems, sampling, stage.completions_per_prompt, *place)
    with clock("reward"):
        scoring = judge(task, groups, source.run, *place)
    for name, seconds in scoring.seconds.items():
        clock.add(f"reward/{name}", seconds)
    return scoring


def visits(scored: Sequence[ScoredGroup], feed: Feed) -> tuple[Visit, ...]:
    """What a curriculum learns from a round: of each problem the share of completions that were right."""
    if feed.curriculum is None:
        return ()
    accuracy = feed.curriculum.accuracy
    return tuple((group.group.problem.id, _pass_rate(group, accuracy)) for group in scored)


def _pass_rate(scored: ScoredGroup, accuracy: str) -> float | None:
    values = [value for score in scored.scores if (value := score.parts.get(accuracy)) is not None]
    return sum(value >= RIGHT for value in values) / len(values) if values else None


def _with_signal(scored: Sequence[ScoredGroup], stage: GrpoStage) -> list[ScoredGroup]:
    """The groups that dynamic sampling keeps; all of them without it."""
    if stage.dynamic_sampling is None:
        return list(scored)
    reward = stage.dynamic_sampling.reward
    values_PG = reward_matrix(scored) if reward is None else part_matrix(scored, reward)
    return [group for group, keep in zip(scored, keep_groups(values_PG).tolist(), strict=True) if keep]


def source_figures(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Of each source of a mixture: its share of the groups, the mean of every reward and total, and of lengths."""
    figures: dict[str, float] = {}
    for source in sorted({group.group.problem.source for group in scored} - {""}):
        own = [group for group in scored if group.group.problem.source == source]
        rewards = {key.removeprefix("reward/"): value for key, value in reward_figures(own).items()}
        lengths = [len(completion.token_ids) for group in own for completion in group.group.completions]
        of_source = {"groups": len(own) / len(scored), "length_mean": sum(lengths) / len(lengths)}
        of_source |= {name: value for name, value in rewards.items() if name != "std" and "/" not in name}
        figures |= {f"source/{source}/{name}": value for name, value in of_source.items()}
    return figures


def _figures(everything: Sequence[ScoredGroup], kept: Sequence[ScoredGroup], seconds: float) -> dict[str, float]:
    silent = sum(not keep for keep in keep_groups(reward_matrix(everything)).tolist())
    return {
        **reward_figures(everything),
        **source_figures(everything),
        **rollout_figures([scored.group for scored in everything], seconds),
        "groups/zero_std": silent / len(everything),
        "groups/kept": float(len(kept)),
        "groups/sampled": float(len(everything)),
    }


def check_failures(scoring: Scoring, rewards: Sequence[Reward], limit: float, step: int, of: int = 0) -> None:
    """Raise UserError when the rewards that count failed on more than a share `limit` of a step's completions.

    The share is of as many as a full step has, `of`, where these are fewer. That none of them applies to a completion
    is no failure, unless that is so of all.
    """
    counting = {name for reward in rewards if reward.weight for name in (reward.name, *reward.gate[:1])}
    scores = [score for group in scoring.groups for score in group.scores]
    failed = sum(any(score.status[name] in ("error", "timeout") for name in counting) for score in scores)
    if failed > limit * max(len(scores), of):
        first = next(failure for failure in scoring.failures if failure.reward in counting)
        raise UserError(
            f"step {step}: rewards failed on {failed} of {len(scores)} completions, expected at most a share of "
            f"{limit} (max_reward_errors); the first: {first.reward}: {first.message}, on {first.completion[:200]!r}: "
            "correct the reward"
        )
    if len(scores) >= of and all(score.total is None for score in scores):
        raise UserError(
            f"step {step}: none of the rewards with a weight applies to any of {len(scores)} completions "
            f"({failed} failed, the others gave None), so there is nothing to learn from: correct the rewards or the "
            "columns they read"
        )
