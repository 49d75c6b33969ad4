"""What is asked and how answers are judged: problems, their template and the rewards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase

from grpo.checkpoint import seeded
from grpo.data import ProblemSet, left_out, load_problems
from grpo.problem_settings import ProblemSettings, SourceSettings
from grpo.reward_settings import RewardSettings
from grpo.rewards.preference_models import with_models
from grpo.rewards.registry import Reward, check_reward, load_rewards
from grpo.rewards.score import RewardFailure, Scoring, score
from grpo.rollout.collect import collect_everywhere
from grpo.rollout.engine import Engine, Sampling
from grpo.run import StageRun
from grpo.templates import Template, make_template, opened
from grpo.types import Group, Problem, ScoredGroup, Status


@dataclass(frozen=True)
class Manner:
    """How the problems of one source of a mixture become prompts, and the rewards that judge what comes back."""

    template: Template
    rewards: tuple[Reward, ...]
    conversational: bool


@dataclass(frozen=True)
class Task:
    """Problems, how they become prompts, and the rewards that judge what comes back; `sources` by name in a mixture."""

    problems: ProblemSet
    template: Template
    rewards: tuple[Reward, ...]
    conversational: bool
    sources: Mapping[str, Manner] = field(default_factory=dict)

    def manner(self, source: str) -> Manner:
        """That of a source, or that of all problems."""
        return self.sources.get(source) or Manner(self.template, self.rewards, self.conversational)


def load_judges(rewards: Sequence[RewardSettings], run: StageRun) -> tuple[Reward, ...]:
    """The rewards of a stage, once for all of its tasks: a reward model among them is loaded when it is first used."""
    return load_rewards(with_models(rewards, run.reward_models, run.accelerator.device))


def load_task(
    problems: ProblemSettings, judges: tuple[Reward, ...], tokenizer: PreTrainedTokenizerBase, run: StageRun
) -> Task:
    """Read and check everything a rollout needs, before anything is computed.

    Raises:
        UserError: the data or a reward is not fit for the recipe.
    """
    loaded = load_problems(problems, tokenizer, run.seed)
    for note in left_out(loaded, problems):
        run.display.note(note)
    sources = {source.shown_as: _manner(source, judges, tokenizer) for source in problems.sources or ()}
    first = problems.each[0]
    manner = _manner(first, judges, tokenizer)
    task = Task(loaded, manner.template, judges, manner.conversational, sources)
    of_source: dict[str, list[Problem]] = {}
    for problem in (*loaded.train, *loaded.held_out):
        of_source.setdefault(problem.source, []).append(problem)
    check_rewards(judges, [(task.manner(source).rewards, own) for source, own in of_source.items()])
    for judge in judges:
        if judge.prepare is not None and run.accelerator.is_main_process:
            judge.prepare()
    return task


def check_rewards(
    rewards: Sequence[Reward], sources: Sequence[tuple[Sequence[Reward], Sequence[Problem]]], every: bool = True
) -> None:
    """Check the rewards of each source against its problems; `every`: whether these are all of the sources.

    Raises:
        UserError: a reward is for no problem of any source that it judges, or can not judge the first of one.
    """
    for reward in rewards:
        judged = [problems for own, problems in sources if any(one.name == reward.name for one in own)]
        if judged and every:
            check_reward(reward, [problem for problems in judged for problem in problems])
        for problems in judged:
            if any(reward.is_for(problem) for problem in problems):
                check_reward(reward, problems)


def _manner(settings: ProblemSettings, rewards: tuple[Reward, ...], tokenizer: PreTrainedTokenizerBase) -> Manner:
    template = make_template(settings.template, tokenizer)
    return Manner(template, own_rewards(settings, rewards), settings.template.kind == "chat")


def own_rewards(settings: ProblemSettings, rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
    """The rewards that judge a source: those it names, or all of them. The gate of a reward it leaves out is open."""
    named = settings.rewards if isinstance(settings, SourceSettings) else None
    if named is None:
        return rewards
    return tuple(
        reward if {*reward.gate[:1]} <= {*named} else replace(reward, gate=())
        for reward in rewards
        if reward.name in named
    )


def ask(
    task: Task,
    engine: Engine,
    run: StageRun,
    problems: Sequence[Problem],
    sampling: Sampling,
    n: int,
    *place: int,
    first: int = 0,
) -> list[Group]:
    """Sample `n` completions of each problem on all processes; `place` says where in the stage this is.

    `first` is the place of the first problem where these are a part of more.
    """
    seed = (run.seed, run.number, *place)
    return collect_everywhere(run.accelerator, engine, problems, task.problems.prompt_ids, sampling, n, seed, first)


def judge(task: Task, groups: Sequence[Group], run: StageRun, *place: int) -> Scoring:
    """Score groups with the task's rewards, on one process: a reward that times out would time out on some only.

    What rewards of this process draw at random depends on the seed and on `place`, where in the stage this is: an
    interrupted run scores nothing twice, and goes on as an uninterrupted one. Those with `isolate` have processes of
    their own, which nothing seeds.
    """
    accelerator = run.accelerator
    verdict: list[Scoring | None] = [None]
    if accelerator.is_main_process:
        with seeded(run.seed, run.number, *place):
            verdict = [_judged(task, groups)]
    if accelerator.num_processes > 1:
        broadcast_object_list(verdict)
    assert verdict[0] is not None  # the main process has scored
    return verdict[0]


def _judged(task: Task, groups: Sequence[Group]) -> Scoring:
    """The groups of each source scored by its own rewards, in the order they came in."""
    scored: dict[int, ScoredGroup] = {}
    failures: list[RewardFailure] = []
    seconds: Counter[str] = Counter()
    for source in dict.fromkeys(group.problem.source for group in groups):
        places = [i for i, group in enumerate(groups) if group.problem.source == source]
        manner = task.manner(source)
        own = [groups[i] for i in places]
        scoring = score(own, manner.rewards, opened(manner.template, own[0].problem), manner.conversational)
        scored |= zip(places, [_with_all_parts(one, task.rewards) for one in scoring.groups], strict=True)
        failures += scoring.failures
        seconds.update(scoring.seconds)
    return Scoring([scored[i] for i in range(len(groups))], failures, dict(seconds))


def _with_all_parts(scored: ScoredGroup, rewards: Sequence[Reward]) -> ScoredGroup:
    """Rewards that do not judge a source do not apply to it."""
    nothing = dict.fromkeys(reward.name for reward in rewards)
    status: dict[str, Status] = dict.fromkeys(nothing, "not_applicable")
    scores = [replace(one, parts={**nothing, **one.parts}, status={**status, **one.status}) for one in scored.scores]
    return replace(scored, scores=tuple(scores))
