"""What a stage of reinforcement learning may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from grpo.advantage_settings import AdvantageSettings, GroupAdvantage
from grpo.correction_settings import CorrectionSettings, OffPolicyMask
from grpo.curriculum_settings import CurriculumSettings, LongerFrom, TemperatureFrom, begun, check_steps
from grpo.engine_settings import RolloutSettings
from grpo.expert_settings import GrpoExpertSettings
from grpo.loss_settings import EntropySettings, GrpoLoss, KlSettings, LossSettings
from grpo.mtp_settings import RlMtpSettings
from grpo.problem_settings import ProblemSettings
from grpo.reward_settings import RewardSettings, check_gates, check_reward_name, check_source_rewards
from grpo.settings import Count, Settings, Share
from grpo.training_settings import TrainingSettings


class DynamicSampling(Settings):
    """DAPO: groups whose rewards are all equal are replaced by groups of further problems."""

    max_rounds: Count = Field(10, description="rounds of sampling a step may take before it goes on with what it has")
    reward: str | None = Field(None, description="the reward that must differ within a group; left out, the total")


class PeriodicEvaluation(Settings):
    """Greedy completions of held-out problems while training goes on."""

    every: Count = 50
    problems: Count = 64
    accuracy: str = Field("accuracy", description="the reward that says whether an answer is right")
    watch: list[str] | None = Field(
        None, description="rewards that may be gamed; left out, those of reward models and judges, and the total"
    )


class GrpoStage(TrainingSettings):
    """Reinforcement learning with group-relative advantages."""

    kind: Literal["grpo"]
    problems: ProblemSettings
    rewards: list[RewardSettings] = Field(min_length=1)
    steps: Count
    prompts_per_step: Count = 16
    completions_per_prompt: Annotated[int, Field(ge=2)] = Field(
        8, description="advantages compare completions of one prompt"
    )
    minibatches_per_step: Count = 1
    epochs_per_step: Count = 1
    rollout: RolloutSettings = RolloutSettings()
    advantage: AdvantageSettings = GroupAdvantage()
    loss: LossSettings = GrpoLoss()
    kl: KlSettings = KlSettings()
    correction: CorrectionSettings | None = Field(
        None,
        description="importance weights against the engine's rounding; left out, the ratio itself is to the engine",
    )
    off_policy_mask: OffPolicyMask | None = None
    entropy: EntropySettings = EntropySettings()
    experts: GrpoExpertSettings = GrpoExpertSettings()
    mask_truncated: bool = Field(False, description="completions cut at max_new_tokens are not trained on")
    dynamic_sampling: DynamicSampling | None = None
    curriculum: CurriculumSettings | None = None
    length_schedule: list[LongerFrom] = Field([], description="limits of completions that replace max_new_tokens later")
    temperature_schedule: list[TemperatureFrom] = Field([], description="what replaces rollout.temperature later")
    max_reward_errors: Share = Field(0.1, description="share of a step's completions whose rewards may fail")
    token_logprobs: Annotated[int, Field(ge=0)] = Field(
        1, description="groups of a step whose samples tell the log-probability of every token"
    )
    evaluation: PeriodicEvaluation | None = None
    mtp: RlMtpSettings | None = Field(None, description="left out: the layer follows the policy, which it cannot move")

    @model_validator(mode="after")
    def _minibatches_hold_whole_groups(self) -> Self:
        if self.prompts_per_step % self.minibatches_per_step:
            raise ValueError(
                f"prompts_per_step ({self.prompts_per_step}) must be a multiple of minibatches_per_step "
                f"({self.minibatches_per_step}): a minibatch holds whole groups"
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_replay(self) -> Self:
        if self.experts.routing_replay == "policy" and self.minibatches_per_step * self.epochs_per_step == 1:
            raise ValueError(
                "experts.routing_replay policy needs several updates a step (minibatches_per_step, epochs_per_step): "
                "the only one chooses as it did before"
            )
        return self

    @model_validator(mode="after")
    def _rewards_are_its_own(self) -> Self:
        if self.evaluation is not None:
            check_reward_name("evaluation.accuracy", self.evaluation.accuracy, self.rewards)
            for name in self.evaluation.watch or ():
                check_reward_name("evaluation.watch", name, self.rewards)
        if self.dynamic_sampling is not None and self.dynamic_sampling.reward is not None:
            check_reward_name("dynamic_sampling.reward", self.dynamic_sampling.reward, self.rewards)
        if self.curriculum is not None:
            check_reward_name("curriculum.accuracy", self.curriculum.accuracy, self.rewards)
        return self

    @model_validator(mode="after")
    def _schedules_rise(self) -> Self:
        check_steps("length_schedule", self.length_schedule)
        check_steps("temperature_schedule", self.temperature_schedule)
        return self

    _longest: int = PrivateAttr(0)

    def at(self, step: int) -> Self:
        """The settings of a step, which count from 1: what samples and learns there has the schedules' `rollout`."""
        entries = (begun(self.length_schedule, step), begun(self.temperature_schedule, step))
        scheduled = {name: value for entry in entries if entry for name, value in entry if name != "step"}
        now = self.model_copy(update={"rollout": self.rollout.model_copy(update=scheduled)})
        now._longest = self.longest_completion
        return now

    @property
    def longest_completion(self) -> int:
        """The longest completion of the whole stage, in tokens, at every step the same."""
        reached = [entry for entry in self.length_schedule if entry.step <= self.steps]
        lengths = [self.rollout.max_new_tokens, *(entry.max_new_tokens for entry in reached)]
        return self._longest or max(lengths)

    @model_validator(mode="after")
    def _gates_name_rewards(self) -> Self:
        check_gates(self.rewards)
        check_source_rewards(self.problems, self.rewards)
        return self

    @model_validator(mode="after")
    def _kl_is_in_no_reward_that_is_normalised_by_its_group(self) -> Self:
        if self.kl.beta and self.kl.place == "reward" and self.advantage.kind in ("grpo", "gdpo"):
            raise ValueError(
                f"advantage {self.advantage.kind} divides by a group's deviation, which in a group without signal is "
                "the KL's alone, whatever beta: put kl in the loss, or say advantage: {kind: rloo}"
            )
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Self:
        if self.evaluation is not None and not self.problems.holds_out:
            raise ValueError("evaluation needs held-out problems, got problems.held_out 0: raise it")
        return self

    @model_validator(mode="after")
    def _a_reward_counts(self) -> Self:
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards need one with a weight other than 0: without it there is nothing to learn")
        return self
