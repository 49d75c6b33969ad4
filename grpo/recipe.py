"""What a recipe may say. Every key is checked, every default is written here once, and an unknown key is an error.

A field's description says why its limits are what they are; error messages quote it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grpo.correction_settings import CorrectionSettings, OffPolicyMask
from grpo.curriculum_settings import CurriculumSettings, LongerFrom, check_steps
from grpo.engine_settings import EngineSettings, RolloutSettings
from grpo.expert_settings import ExpertSettings, GrpoExpertSettings
from grpo.mixture_settings import SourceOptions, check_mixture, with_sources
from grpo.mtp_settings import MtpSettings, RlMtpSettings
from grpo.preference_settings import Part, RewardModelEvaluation, Where, with_part
from grpo.rejection_settings import DuplicateSettings, LayoutSettings, ReadableSettings
from grpo.settings import Count, NonNegative, Number, Positive, Settings, Share, one_of
from grpo.stage_settings import NamedStage, StartingStage
from grpo.teacher_settings import TeacherSettings

Aggregation = Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]


# --- the policy -------------------------------------------------------------------------------------------------------


class TokenizerSettings(Settings):
    """A tokenizer made without a hub: raw bytes, or byte-level BPE trained on a text file."""

    kind: Literal["bytes", "bpe"] = "bytes"
    special_tokens: list[str] = Field([], description="texts that are one token each, such as <think>")
    corpus: str | None = None
    vocab_size: Count | None = None

    @model_validator(mode="after")
    def _bpe_needs_a_corpus(self) -> Self:
        given = self.corpus is not None, self.vocab_size is not None
        if given != ((True, True) if self.kind == "bpe" else (False, False)):
            raise ValueError("needs corpus and vocab_size for kind bpe, and neither for kind bytes")
        return self


class InitSettings(Settings):
    """A model made from scratch: a transformers model type and the keys of its config."""

    architecture: str
    config: dict[str, Any] = Field({})
    tokenizer: TokenizerSettings = TokenizerSettings()


class LoraSettings(Settings):
    """Low-rank adapters in place of full fine-tuning."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="in sft stages; elsewhere it is off")
    targets: list[str] | None = Field(
        None, description="module names, and experts for the routed ones; left out, those of the model's family"
    )


class ModelSettings(Settings):
    """The policy: a folder or hub name, or a model made from scratch."""

    path: str | None = None
    init: InitSettings | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraSettings | None = None
    mtp: Literal["keep", "add", "drop"] = Field(
        "keep", description="the layer of multi-token prediction; add: a new one where the model has none"
    )
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        one_of(self, "path", "init")
        return self


# --- problems and rewards ---------------------------------------------------------------------------------------------


class TemplateSettings(Settings):
    """How a problem becomes a prompt."""

    kind: Literal["plain", "r1_zero", "chat", "jinja"] = "chat"
    system: str | None = Field(None, description="the system prompt of a chat template")
    prefill: str = Field("", description="text that begins every completion, such as <think>")
    file: str | None = Field(None, description="the file of a Jinja template")
    examples: str | None = Field(None, description="a file of problems with `completion`, shown before every problem")
    separator: str | None = Field(
        None, description="what stands between examples, except in a chat, where they are turns; left out, a blank line"
    )

    @model_validator(mode="after")
    def _options_fit_the_kind(self) -> Self:
        if (self.kind == "jinja") != (self.file is not None):
            raise ValueError("needs file for kind jinja, and only there")
        if self.system is not None and self.kind != "chat":
            raise ValueError(f"system belongs to kind chat, not to kind {self.kind}")
        if self.separator is not None and (self.examples is None or self.kind == "chat"):
            raise ValueError("separator belongs to examples of a kind other than chat")
        return self


class ProblemSettings(Settings):
    """Where problems come from, how they are split, and how they become prompts."""

    sources: Annotated[list["SourceSettings"], Field(min_length=1)] | None = Field(
        None, description="several sources with weights; problems may be their list alone"
    )
    path: str | None = Field(None, description="a .jsonl, .parquet or .csv file")
    dataset: str | None = Field(None, description="a data set of the Hugging Face hub")
    task: str | None = Field(None, description="a task of reasoning-gym")
    function: str | None = Field(None, description="file.py:function or package.module:function, yielding mappings")
    stage: str | None = Field(None, description="an earlier stage that leaves data")
    params: dict[str, Any] = Field({}, description="parameters of the task or function")
    config: str | None = Field(None, description="the configuration of a hub data set")
    split: str | None = Field(None, description="the split of a hub data set; left out, train")
    size: Count | None = Field(None, description="how many problems to generate or read")
    columns: dict[str, str] = Field({}, description="our name for a column: its name in the data")
    where: Where = Field({}, description="columns and values of the rows that are taken; left out, all of them")
    held_out: Annotated[Number, Field(ge=0, lt=1)] = Field(0.1, description="share kept out of training, by hash")
    template: TemplateSettings = TemplateSettings()
    max_prompt_tokens: Count = 1024
    long_prompts: Literal["drop", "error"] = "drop"
    too_few: Literal["error", "wrap"] = Field("error", description="what to do with less data than one step takes")

    @model_validator(mode="before")
    @classmethod
    def _sources_share_what_is_said_once(cls, given: Any) -> Any:
        return with_sources(given)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        one_of(self, "path", "dataset", "task", "function", "stage", "sources")
        if self.params and self.task is None and self.function is None:
            raise ValueError("params belongs to task or function")
        if self.dataset is None and (self.config is not None or self.split is not None):
            raise ValueError("config and split belong to dataset")
        if self.task is not None and self.size is None:
            raise ValueError("size is needed with task: how many problems to generate")
        return self

    @model_validator(mode="after")
    def _sources_can_be_told_apart(self) -> Self:
        sources = self.sources or []
        check_mixture([source.shown_as for source in sources], [source.first_step for source in sources])
        return self

    @property
    def each(self) -> list["SourceSettings"] | list["ProblemSettings"]:
        """The sources of a mixture, or these settings alone."""
        return self.sources or [self]

    @property
    def names(self) -> list[str]:
        """What figures call each of them; empty where there is one."""
        return [source.shown_as for source in self.sources] if self.sources else [""]

    @property
    def holds_out(self) -> bool:
        """Whether any problem can be held out."""
        return any(source.held_out > 0 for source in self.each)

    @property
    def longest_prompt(self) -> int:
        """The most tokens that a prompt may have."""
        return max(source.max_prompt_tokens for source in self.each)


class SourceSettings(ProblemSettings, SourceOptions):
    """One source of a mixture: problems, and how they are mixed in."""

    @model_validator(mode="after")
    def _is_no_mixture(self) -> Self:
        if self.sources is not None:
            raise ValueError("a source has no sources of its own: list them all side by side")
        return self

    @property
    def shown_as(self) -> str:
        """Its name in figures and samples."""
        origin = self.label or self.task or self.path or self.dataset or self.function or self.stage or ""
        return origin.rstrip("/").rpartition("/")[2].rpartition(":")[2].removesuffix(".jsonl")


class Gate(Settings):
    """A condition on another reward: what is gated counts as 0 where that reward is below `at_least`."""

    reward: str
    at_least: Number = 1.0


def _gate_of_a_name(value: Any) -> Any:
    """`only_if: format` says enough."""
    return {"reward": value} if isinstance(value, str) else value


class RewardSettings(Settings):
    """One reward: a built-in name, package.module:function or file.py:function."""

    name: str
    label: str | None = Field(None, description="its name in figures and samples; left out, the function's")
    weight: Number = 1.0
    options: dict[str, Any] = Field({}, description="keyword arguments of the reward")
    clip: tuple[Number, Number] | None = Field(None, description="the least and the most that it counts as")
    only_if: Annotated[Gate, BeforeValidator(_gate_of_a_name)] | None = Field(
        None, description="a reward that must be reached for this one to count: else it counts as 0"
    )
    where: Where = Field({}, description="columns and values of the problems it is for; left out, all of them")
    isolate: bool = Field(False, description="call it in worker processes that are killed when they take too long")
    seconds: Positive = Field(10.0, description="how long a call may take when isolate is on")
    memory_gb: Positive = Field(4.0, description="address space of a worker when isolate is on")

    @field_validator("clip", mode="before")
    @classmethod
    def _pair_of_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _clip_is_a_range(self) -> Self:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError(f"clip must be the least and the most, got {list(self.clip)}")
        return self

    @property
    def shown_as(self) -> str:
        """The reward's name in figures, samples and other keys of the recipe."""
        return self.label or self.name.rpartition(":")[2]


def _check_reward(key: str, name: str, rewards: list[RewardSettings]) -> None:
    """A reward that a key names is one of the stage's own."""
    known = [reward.shown_as for reward in rewards]
    if name not in known:
        raise ValueError(f"{key} must name one of the rewards ({', '.join(known)}), got {name!r}")


def _check_gates(rewards: list[RewardSettings]) -> None:
    for reward in rewards:
        if reward.only_if is not None:
            _check_reward(f"only_if of {reward.shown_as}", reward.only_if.reward, rewards)
            if reward.only_if.reward == reward.shown_as:
                raise ValueError(f"only_if of {reward.shown_as} names itself: name another reward")


def _check_source_rewards(problems: ProblemSettings, rewards: list[RewardSettings]) -> None:
    """What a source is judged by are rewards of the stage."""
    for source in problems.sources or ():
        for name in source.rewards or ():
            _check_reward(f"rewards of source {source.shown_as}", name, rewards)


# --- stages -----------------------------------------------------------------------------------------------------------


class TrainingSettings(StartingStage):
    """What every stage that changes weights has in common."""

    lr: Positive
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_floor: Share = Field(0.0, description="share of lr that is left at the end of a linear or cosine schedule")
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0
    beta1: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive = 1.0
    precision: Literal["fp32", "bf16", "fp8_block"] = Field(
        "fp32", description="bf16: autocast, the weights themselves keep dtype; fp8_block: linear layers in FP8 besides"
    )
    tokens_per_micro_batch: Count = Field(4096, description="tokens computed at a time, a shared prompt counted once")
    activations: Literal["keep", "recompute", "offload"] = Field(
        "keep", description="between forward and backward pass: kept, computed twice, or moved to the CPU's memory"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="adamw_8bit needs the extra 8bit")
    experts: ExpertSettings = ExpertSettings()
    max_bad_steps: Count = Field(3, description="non-finite steps in a row before the run stops")
    checkpoint_every: Count = Field(10, description="steps between checkpoints")
    keep_last: Count = Field(2, description="checkpoints kept, the newest ones")
    keep_best: str | None = Field(None, description="a figure of metrics.jsonl whose best checkpoint is kept too")

    @model_validator(mode="after")
    def _floor_is_reached(self) -> Self:
        if self.lr_floor and self.lr_schedule == "constant":
            raise ValueError("lr_floor belongs to a linear or cosine lr_schedule")
        return self

    @property
    def sampling_precision(self) -> Literal["fp32", "bf16"]:
        """Of the policy when it is sampled from: FP8 is the learner's alone."""
        return "fp32" if self.precision == "fp32" else "bf16"


class SftStage(TrainingSettings):
    """Supervised fine-tuning on the completions of a data set."""

    kind: Literal["sft"]
    problems: ProblemSettings
    completion_column: str = "completion"
    layout: LayoutSettings | None = Field(None, description="each completion must have it, or else the run stops")
    examples_per_step: Count = 32
    steps: Count | None = None
    epochs: Count | None = None
    mtp: MtpSettings | None = Field(None, description="left out: as DeepSeek-V3, where the model has such a layer")
    teacher: TeacherSettings | None = Field(None, description="a model whose distributions are learned too")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        one_of(self, "steps", "epochs")
        return self

    @model_validator(mode="after")
    def _a_teacher_does_not_predict_further(self) -> Self:
        if self.teacher is not None and self.mtp is not None:
            raise ValueError(
                "mtp and teacher do not go together: a teacher teaches the next token alone; leave mtp out"
            )
        return self


def _grpo_unless_said(value: Any) -> Any:
    """An advantage or a loss without a kind is GRPO's, so that `loss: {clip_high: 10}` says enough."""
    return {"kind": "grpo"} | value if isinstance(value, dict) else value


class GroupAdvantage(Settings):
    """GRPO: (r - group mean) / (group std + epsilon)."""

    kind: Literal["grpo"] = "grpo"
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-6


class DrGrpoAdvantage(Settings):
    """Dr. GRPO: r - group mean."""

    kind: Literal["dr_grpo"]


class RlooAdvantage(Settings):
    """RLOO: r - mean of the others."""

    kind: Literal["rloo"]


class BatchStdAdvantage(Settings):
    """(r - group mean) / (std of the batch's rewards + epsilon)."""

    kind: Literal["batch_std"]
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-4


class ReinforcePlusPlusAdvantage(Settings):
    """REINFORCE++-baseline: r - group mean, whitened over the batch's sequences."""

    kind: Literal["reinforce_pp_baseline"]
    epsilon: NonNegative = 1e-8


class GdpoAdvantage(Settings):
    """GDPO: each reward normalised within its groups, then their weighted sum over the batch."""

    kind: Literal["gdpo"]
    ddof: Literal[0, 1] = 1
    epsilon: NonNegative = 1e-4


AdvantageSettings = Annotated[
    GroupAdvantage | DrGrpoAdvantage | RlooAdvantage | BatchStdAdvantage | ReinforcePlusPlusAdvantage | GdpoAdvantage,
    Field(discriminator="kind"),
    BeforeValidator(_grpo_unless_said),
]


class GrpoLoss(Settings):
    """The clipped surrogate of PPO on token ratios. R1 uses clip 10."""

    kind: Literal["grpo"] = "grpo"
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.2
    dual_clip: Annotated[Number, Field(gt=1)] | None = Field(None, description="bound c of dual-clip PPO for A < 0")
    delta: Annotated[Number, Field(gt=1)] | None = Field(None, description="INTELLECT-2's upper bound of the ratio")
    aggregation: Aggregation = "seq-mean-token-mean"


class DrGrpoLoss(Settings):
    """Dr. GRPO: token sums over a constant length, so that length has no pull of its own."""

    kind: Literal["dr_grpo"]
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.2
    aggregation: Aggregation = "seq-mean-token-sum-norm"


class DapoLoss(Settings):
    """DAPO: clip-higher and the mean over all tokens of the minibatch."""

    kind: Literal["dapo"]
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.28
    aggregation: Aggregation = "token-mean"


class GspoLoss(Settings):
    """GSPO: one ratio a sequence, the geometric mean of its tokens' ratios. LUSPO is seq-mean-token-sum of it."""

    kind: Literal["gspo"]
    clip_low: NonNegative = 3e-4
    clip_high: NonNegative = 4e-4
    aggregation: Literal["seq-mean-token-mean", "seq-mean-token-sum"] = "seq-mean-token-mean"


class CispoLoss(Settings):
    """CISPO: REINFORCE weighted by a ratio that is clipped and carries no gradient."""

    kind: Literal["cispo"]
    clip_low: NonNegative | None = Field(None, description="left out: no lower bound, as in the paper")
    clip_high: NonNegative = Field(4.0, description="bound 1 + clip_high; 4 is ScaleRL's 5, the paper gives none")
    aggregation: Aggregation = "token-mean"


class GmpoLoss(Settings):
    """GMPO: the geometric mean of token ratios, each clipped in log space."""

    kind: Literal["gmpo"]
    log_clip_low: NonNegative = 0.4
    log_clip_high: NonNegative = 0.4
    aggregation: Literal["seq-mean-token-mean"] = "seq-mean-token-mean"


class SapoLoss(Settings):
    """SAPO: a sigmoid gate in place of the clip."""

    kind: Literal["sapo"]
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05
    aggregation: Aggregation = "seq-mean-token-mean"


LossSettings = Annotated[
    GrpoLoss | DrGrpoLoss | DapoLoss | GspoLoss | CispoLoss | GmpoLoss | SapoLoss,
    Field(discriminator="kind"),
    BeforeValidator(_grpo_unless_said),
]


class KlSettings(Settings):
    """The penalty for leaving the reference model. beta 0 turns it off, and no reference is kept."""

    beta: NonNegative = 0.001
    estimator: Literal["k1", "k2", "k3", "ratio_k3"] = "k3"
    place: Literal["loss", "reward"] = "loss"
    refresh_reference_every: Count | None = Field(None, description="steps after which the policy becomes reference")

    @model_validator(mode="after")
    def _ratio_is_one_in_a_reward(self) -> Self:
        if self.place == "reward" and self.estimator == "ratio_k3":
            raise ValueError("estimator ratio_k3 belongs in the loss: in a reward the ratio is 1 and it is plain k3")
        return self

    @model_validator(mode="after")
    def _there_is_a_reference(self) -> Self:
        if self.beta == 0 and self.refresh_reference_every is not None:
            raise ValueError("refresh_reference_every needs a beta above 0: without a penalty no reference is kept")
        return self


class EntropySettings(Settings):
    """A bonus for entropy; with a target, its coefficient follows Skywork-OR1's adaptive rule."""

    bonus: NonNegative = 0.0
    target: Positive | None = None
    delta: NonNegative = Field(0.0, description="how far the coefficient moves a step when there is a target")

    @model_validator(mode="after")
    def _delta_has_a_target(self) -> Self:
        if self.delta and self.target is None:
            raise ValueError("delta needs a target: it moves the coefficient towards one")
        if self.target is not None and not (self.bonus or self.delta):
            raise ValueError("target needs a bonus or a delta: without them the coefficient stays 0")
        return self


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
        None, description="rewards of preference that may be gamed; left out, those of reward models and judges"
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
            _check_reward("evaluation.accuracy", self.evaluation.accuracy, self.rewards)
            for name in self.evaluation.watch or ():
                _check_reward("evaluation.watch", name, self.rewards)
        if self.dynamic_sampling is not None and self.dynamic_sampling.reward is not None:
            _check_reward("dynamic_sampling.reward", self.dynamic_sampling.reward, self.rewards)
        if self.curriculum is not None:
            _check_reward("curriculum.accuracy", self.curriculum.accuracy, self.rewards)
        return self

    @model_validator(mode="after")
    def _lengths_follow_each_other(self) -> Self:
        check_steps(self.length_schedule)
        return self

    def max_new_tokens(self, step: int) -> int:
        """The longest completion of a step, which count from 1."""
        begun = [entry.max_new_tokens for entry in self.length_schedule if entry.step <= step]
        return begun[-1] if begun else self.rollout.max_new_tokens

    @property
    def longest_completion(self) -> int:
        """The longest completion of the whole stage, in tokens."""
        return max([self.rollout.max_new_tokens, *(entry.max_new_tokens for entry in self.length_schedule)])

    @model_validator(mode="after")
    def _gates_name_rewards(self) -> Self:
        _check_gates(self.rewards)
        _check_source_rewards(self.problems, self.rewards)
        return self

    @model_validator(mode="after")
    def _gdpo_has_no_kl_in_its_rewards(self) -> Self:
        if isinstance(self.advantage, GdpoAdvantage) and self.kl.beta and self.kl.place == "reward":
            raise ValueError(
                "advantage gdpo normalises every reward by itself: put kl in the loss, or set its beta to 0"
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


class RewardModelStage(TrainingSettings):
    """A scalar head that learns which of two responses is better, or whether one is good."""

    kind: Literal["reward_model"]
    problems: ProblemSettings
    objective: Literal["pairwise", "pointwise"] = "pairwise"
    judges: Part = Field(description="summary or response; left out, summary for pairs and response for labels")
    chosen_column: str = Field("chosen", description="the better response of a pair")
    rejected_column: str = Field("rejected", description="the other response of a pair")
    response_column: str = Field("response", description="the response that has a label, with pointwise")
    label_column: str = Field("label", description="1 or true: good, 0 or false: bad, with pointwise")
    center: NonNegative = Field(0.0, description="how hard the scores of pairs are kept around 0")
    max_tokens: Count = Field(8192, description="longer examples are left out, prompt included")
    examples_per_step: Count = 32
    steps: Count | None = None
    epochs: Count | None = None
    evaluation: RewardModelEvaluation = RewardModelEvaluation()

    @model_validator(mode="before")
    @classmethod
    def _judges_what_r1_does(cls, given: Any) -> Any:
        return with_part(given)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        one_of(self, "steps", "epochs")
        return self

    @model_validator(mode="after")
    def _options_fit_the_objective(self) -> Self:
        if self.center and self.objective == "pointwise":
            raise ValueError("center is for pairs, whose scores are known up to a constant: leave it out")
        if self.experts != ExpertSettings():
            raise ValueError("experts are left as they are in a reward model: leave experts out")
        if self.problems.sources is not None:
            raise ValueError("a reward model learns from one source of pairs or labels: leave problems.sources out")
        if self.problems.held_out == 0:
            raise ValueError("a reward model is measured on held-out examples, got problems.held_out 0: raise it")
        return self


class EvaluateStage(NamedStage, EngineSettings):
    """Accuracy on held-out problems: greedy, pass@k and cons@k over samples, each with a 95 % interval."""

    kind: Literal["evaluate"]
    problems: ProblemSettings
    rewards: list[RewardSettings] = Field(min_length=1)
    accuracy: str = Field("accuracy", description="the reward that says whether an answer is right")
    part: Literal["held_out", "train", "all"] = "held_out"
    limit: Count = Field(256, description="problems evaluated at most")
    models: list[str] | None = Field(None, description="base, stages or paths; left out, base and every model so far")
    templates: list[Literal["training", "native"]] = Field(
        ["training"], min_length=1, description="the problems' own template, the model's own chat template, or both"
    )
    greedy: bool = Field(True, description="one completion of the likeliest tokens a problem")
    samples: Annotated[int, Field(ge=0)] = Field(8, description="samples a problem for pass@k; 0: greedy only")
    k: list[Count] = Field([1, 4, 8], min_length=1)
    cons: list[Count] = Field([], description="k of cons@k: how often the majority of k samples is right")
    temperature: Positive = 0.6
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Count = 256
    stop: list[str] = Field([])
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _k_fits_the_samples(self) -> Self:
        if self.samples and max(self.k) > self.samples:
            raise ValueError(f"k must be at most samples ({self.samples}), got {max(self.k)}")
        if max(self.cons, default=0) > self.samples:
            raise ValueError(f"cons must be at most samples ({self.samples}), got {max(self.cons)}")
        if len(set(self.templates)) < len(self.templates):
            raise ValueError(f"templates must differ, got {', '.join(self.templates)}")
        if not self.samples and not self.greedy:
            raise ValueError("needs samples, or greedy: without both there is nothing to measure")
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> Self:
        if self.part == "held_out" and not self.problems.holds_out:
            raise ValueError("part held_out needs such problems, got problems.held_out 0: raise it, or say part: train")
        return self

    @model_validator(mode="after")
    def _reward_is_its_own(self) -> Self:
        _check_reward("accuracy", self.accuracy, self.rewards)
        _check_gates(self.rewards)
        _check_source_rewards(self.problems, self.rewards)
        return self


class DecontaminateSettings(Settings):
    """Problems of evaluations, and whatever shares a run of words with one, are kept out of the data."""

    words: Count = Field(10, description="words of a run; shorter problems of evaluations are compared whole")
    common: Count = Field(10, description="a run that stands in more problems of evaluations than this is boilerplate")
    against: list[ProblemSettings] = Field([], description="sets beside those that the recipe's stages evaluate on")


class MixSettings(Settings):
    """Other examples to learn from, such as non-reasoning data: `ratio` of them for every kept sample."""

    problems: ProblemSettings
    ratio: Positive
    completion_column: str = "completion"


class RejectionStage(StartingStage, EngineSettings):
    """Rejection sampling: several samples a problem, of which the right and readable ones become data."""

    kind: Literal["rejection"]
    problems: ProblemSettings
    rewards: list[RewardSettings] = Field(min_length=1)
    keep_if: dict[str, Number] = Field({"accuracy": 1.0}, min_length=1, description="rewards and what each must reach")
    samples: Count = Field(16, description="samples a problem; the R1 paper says several")
    limit: Count | None = Field(None, description="problems at most")
    max_per_problem: Count = Field(4, description="samples kept of a problem, the first ones")
    temperature: Positive = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 256
    stop: list[str] = Field([])
    keep_stop: bool = Field(True, description="a stop text at the end is part of what is written down")
    precision: Literal["fp32", "bf16"] = "fp32"
    problems_per_chunk: Count = Field(64, description="problems sampled at a time; what a crash may cost")
    layout: LayoutSettings | None = LayoutSettings()
    readable: ReadableSettings | None = ReadableSettings()
    near_duplicates: DuplicateSettings | None = DuplicateSettings()
    decontaminate: DecontaminateSettings | None = DecontaminateSettings()
    mix: list[MixSettings] = Field([])
    max_reward_errors: Share = Field(0.1, description="share of a chunk's completions whose rewards may fail")

    @model_validator(mode="after")
    def _rewards_are_its_own(self) -> Self:
        for name in self.keep_if:
            _check_reward("keep_if", name, self.rewards)
        _check_gates(self.rewards)
        _check_source_rewards(self.problems, self.rewards)
        return self


Stage = Annotated[SftStage | GrpoStage | RewardModelStage | RejectionStage | EvaluateStage, Field(discriminator="kind")]


class Recipe(Settings):
    """A whole run. `problems` and `rewards` serve every stage that has none of its own."""

    name: Annotated[
        str, Field(pattern=r"^\w[\w.-]*$", description="the name of the run's folder, of letters, digits, _ - .")
    ]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    output: str = Field("runs", description="the folder in which the run's folder lies")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field([])
    model: ModelSettings
    problems: ProblemSettings | None = None
    rewards: list[RewardSettings] | None = None
    stages: list[Stage] = Field(min_length=1)
