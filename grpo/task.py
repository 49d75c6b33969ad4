"""What is asked and how answers are judged: problems, their template and the rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase

from grpo.data import ProblemSet, load_problems
from grpo.recipe import ProblemSettings, RewardSettings
from grpo.rewards.preference_models import with_models
from grpo.rewards.registry import Reward, check_reward, load_rewards
from grpo.rewards.score import Scoring, score
from grpo.rollout.collect import collect_everywhere
from grpo.rollout.engine import Engine, Sampling
from grpo.run import StageRun
from grpo.templates import Template, make_template, opened
from grpo.types import Group, Problem


@dataclass(frozen=True)
class Task:
    """Problems, how they become prompts, and the rewards that judge what comes back."""

    problems: ProblemSet
    template: Template
    rewards: tuple[Reward, ...]
    conversational: bool


def load_task(
    problems: ProblemSettings, rewards: Sequence[RewardSettings], tokenizer: PreTrainedTokenizerBase, run: StageRun
) -> Task:
    """Read and check everything a rollout needs, before anything is computed.

    Raises:
        UserError: the data or a reward is not fit for the recipe.
    """
    loaded = load_problems(problems, tokenizer, run.seed)
    if loaded.dropped_long:
        run.display.note(f"{loaded.dropped_long} problems longer than {problems.max_prompt_tokens} tokens are left out")
    if loaded.duplicates:
        run.display.note(f"{loaded.duplicates} problems that stand in the data twice are taken once")
    judges = load_rewards(with_models(rewards, run.reward_models, run.accelerator.device))
    for judge in judges:
        check_reward(judge, [*loaded.train, *loaded.held_out])
        if judge.prepare is not None and run.accelerator.is_main_process:
            judge.prepare()
    return Task(loaded, make_template(problems.template, tokenizer), judges, problems.template.kind == "chat")


def ask(
    task: Task, engine: Engine, run: StageRun, problems: Sequence[Problem], sampling: Sampling, n: int, *place: int
) -> list[Group]:
    """Sample `n` completions of each problem on all processes; `place` says where in the stage this is."""
    seed = (run.seed, run.number, *place)
    return collect_everywhere(run.accelerator, engine, problems, task.problems.prompt_ids, sampling, n, seed)


def judge(task: Task, groups: Sequence[Group], accelerator: Accelerator) -> Scoring:
    """Score groups with the task's rewards, on one process: a reward that times out would time out on some only."""
    verdict: list[Scoring | None] = [None]
    if accelerator.is_main_process:
        prefill = opened(task.template, groups[0].problem) if groups else ""
        verdict = [score(groups, task.rewards, prefill, task.conversational)]
    if accelerator.num_processes > 1:
        broadcast_object_list(verdict)
    assert verdict[0] is not None  # the main process has scored
    return verdict[0]
