from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.loss_settings import EntropySettings, GrpoLoss, KlSettings, LossSettings
from grpo.model_settings import ModelSettings, TokenizerSettings
from grpo.problem_settings import ProblemSettings, TemplateSettings
from grpo.recipe import Stage
from grpo.rejection_settings import LayoutSettings
from grpo.rejection_stage import MixSettings, RejectionStage
from grpo.reward_model_stage import RewardModelStage
from grpo.reward_settings import Gate
from grpo.settings import Settings
from grpo.sft_stage import SftStage

PROBLEMS = {"path": "p.jsonl"}
NOTHING_HELD_OUT = {"path": "p.jsonl", "held_out": 0}
REWARDS = [{"name": "accuracy"}]
SFT = {"kind": "sft", "lr": 1e-3, "steps": 1, "problems": PROBLEMS}
GRPO = {"kind": "grpo", "lr": 1e-6, "steps": 1, "problems": PROBLEMS, "rewards": REWARDS}
REJECTION = {"kind": "rejection", "problems": PROBLEMS, "rewards": REWARDS}
EVALUATE = {"kind": "evaluate", "problems": PROBLEMS, "rewards": REWARDS}

WRONG: list[tuple[type[Settings], dict[str, Any], str]] = [
    (ModelSettings, {}, "exactly one of path, init, got none"),
    (ModelSettings, {"path": "m", "init": {"architecture": "llama"}}, "got path, init"),
    (TokenizerSettings, {"kind": "bpe", "corpus": "c.txt"}, "needs corpus and vocab_size"),
    (
        RewardModelStage,
        {"kind": "reward_model", "lr": 1e-3, "steps": 1, "problems": [PROBLEMS, {"path": "q", "weight": 2.0}]},
        "leave weight and first_step out",
    ),
    (TokenizerSettings, {"vocab_size": 300}, "needs corpus and vocab_size"),
    (TemplateSettings, {"kind": "jinja"}, "needs file for kind jinja"),
    (TemplateSettings, {"file": "t.jinja"}, "needs file for kind jinja"),
    (TemplateSettings, {"kind": "plain", "separator": "--"}, "separator belongs to examples"),
    (MixSettings, {"problems": PROBLEMS, "ratio": 0.3, "write": "<think></think>"}, r"write must hold \{completion\}"),
    (
        MixSettings,
        {"problems": {"sources": [{"path": "a", "weight": 3.0}, {"path": "b"}]}, "ratio": 0.3},
        "give each source its own entry of mix, with a ratio",
    ),
    (TemplateSettings, {"kind": "plain", "system": "Hi"}, "system belongs to kind chat, not to kind plain"),
    (
        GrpoStage,
        {**GRPO, "rollout": {"speculative": True, "check": {"tokens": 8}}},
        "vllm and check belong to engines of vLLM, not to speculative",
    ),
    (
        ProblemSettings,
        {"path": "a", "task": "b"},
        "exactly one of path, dataset, task, function, stage, sources, got path, task",
    ),
    (ProblemSettings, {"path": "a", "params": {"x": 1}}, "params belongs to task or function"),
    (ProblemSettings, {"path": "a", "split": "test"}, "config and split belong to dataset"),
    (ProblemSettings, {"task": "sums"}, "size is needed with task"),
    (KlSettings, {"place": "reward", "estimator": "ratio_k3"}, "ratio_k3 belongs in the loss"),
    (KlSettings, {"beta": 0, "refresh_reference_every": 5}, "refresh_reference_every needs a beta above 0"),
    (EntropySettings, {"delta": 0.1}, "delta needs a target"),
    (EntropySettings, {"target": 0.5}, "target needs a bonus or a delta"),
    (SftStage, {**SFT, "lr_floor": 0.1}, "lr_floor belongs to a linear or cosine lr_schedule"),
    (SftStage, {**SFT, "epochs": 1}, "exactly one of steps, epochs, got steps, epochs"),
    (SftStage, {**SFT, "steps": None}, "exactly one of steps, epochs, got none"),
    (
        SftStage,
        {**SFT, "steps": None, "epochs": 1, "problems": [PROBLEMS, {"path": "q"}]},
        "epochs needs one source of problems",
    ),
    (GrpoStage, {**GRPO, "prompts_per_step": 6, "minibatches_per_step": 4}, "a minibatch holds whole groups"),
    (GrpoStage, {**GRPO, "evaluation": {"accuracy": "right"}}, "evaluation.accuracy must name one of the rewards"),
    (GrpoStage, {**GRPO, "dynamic_sampling": {"reward": "right"}}, "dynamic_sampling.reward must name one of"),
    (GrpoStage, {**GRPO, "rewards": [{"name": "format", "weight": 0}]}, "a weight other than 0"),
    (GrpoStage, {**GRPO, "problems": NOTHING_HELD_OUT, "evaluation": {}}, "evaluation needs held-out problems"),
    (GrpoStage, {**GRPO, "rewards": []}, "at least 1 item"),
    (
        GrpoStage,
        {**GRPO, "temperature_schedule": [{"step": 9, "temperature": 1.2}, {"step": 5, "temperature": 1.4}]},
        r"the steps of temperature_schedule must rise, got \[9, 5\]",
    ),
    (GrpoStage, {**GRPO, "temperature_schedule": [{"step": 9, "temperature": 2.5}]}, "less than or equal to 2"),
    (RejectionStage, {**REJECTION, "keep_if": {"right": 1}}, "keep_if must name one of the rewards"),
    (LayoutSettings, {"write": "{reasoning}"}, "each once"),
    (EvaluateStage, {**EVALUATE, "accuracy": "right"}, "accuracy must name one of the rewards"),
    (EvaluateStage, {**EVALUATE, "problems": NOTHING_HELD_OUT}, "part held_out needs such problems"),
    (EvaluateStage, {**EVALUATE, "samples": 2}, r"k must be at most samples \(2\), got 8"),
]


@pytest.mark.parametrize(("settings", "values", "reason"), WRONG)
def test_what_does_not_fit_together(settings: type[Settings], values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings.model_validate(values)


def every_settings_class() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [Settings]
    for one in found:  # which grows on the way
        found += [more for more in one.__subclasses__() if more not in found and more.__module__.startswith("grpo.")]
    return found[1:]


@pytest.mark.parametrize("settings", every_settings_class(), ids=lambda c: c.__name__)
def test_every_part_refuses_unknown_keys_and_changes(settings: type[BaseModel]) -> None:
    assert settings.model_config["extra"] == "forbid"
    assert settings.model_config["frozen"]
    assert settings.model_config["strict"]


@pytest.mark.parametrize("settings", every_settings_class(), ids=lambda c: c.__name__)
def test_every_default_is_a_value_that_may_be_said(settings: type[BaseModel]) -> None:
    for name, field in settings.model_fields.items():
        if not field.is_required():
            said = field.get_default(call_default_factory=True)
            said = said.model_dump() if isinstance(said, BaseModel) else said
            heard: Any = TypeAdapter(field.annotation).validate_python(said)
            assert heard == field.get_default(call_default_factory=True), name


def test_every_kind_of_loss_needs_nothing_but_its_kind() -> None:
    union = get_args(get_args(LossSettings)[0])
    kinds = [get_args(loss.model_fields["kind"].annotation)[0] for loss in union]
    assert len(kinds) == 7
    for kind, loss in zip(kinds, union, strict=True):
        assert type(GrpoStage.model_validate({**GRPO, "loss": {"kind": kind}}).loss) is loss


@pytest.mark.parametrize("said", [1e-6, "1e-6", "0.000001"])
def test_a_number_may_be_text(said: object) -> None:
    assert SftStage.model_validate({**SFT, "lr": said}).lr == 1e-6


@pytest.mark.parametrize("said", ["8", 8.0, True, None])
def test_a_count_is_a_whole_number(said: object) -> None:
    with pytest.raises(ValidationError):
        GrpoStage.model_validate({**GRPO, "completions_per_prompt": said})


def test_greedy_evaluation_asks_nothing_of_k() -> None:
    assert EvaluateStage.model_validate({**EVALUATE, "samples": 0}).samples == 0


def test_a_reward_of_a_file_counts_as_accuracy_by_its_function_s_name() -> None:
    own = {**EVALUATE, "rewards": [{"name": "mine.py:right"}], "accuracy": "right"}
    assert EvaluateStage.model_validate(own).accuracy == "right"


def test_the_longest_completion_of_a_stage_is_the_same_at_every_step() -> None:
    """Dr. GRPO divides by it. A step that the stage does not reach makes none longer."""
    lengths = [{"step": 10, "max_new_tokens": 256}, {"step": 20, "max_new_tokens": 2048}]
    for schedule, steps, longest in (
        (lengths[:1], 99, 1024),
        (lengths, 99, 2048),
        (lengths, 20, 2048),
        (lengths, 19, 1024),
    ):
        said = {"steps": steps, "rollout": {"max_new_tokens": 1024}, "length_schedule": schedule}
        stage = GrpoStage.model_validate(GRPO | said)
        assert [stage.at(step).longest_completion for step in (1, 9, 10, 20, 99)] == [longest] * 5
        assert stage.at(10).at(10).rollout.max_new_tokens == 256
        assert stage.at(10).longest_completion == longest


def test_a_stage_is_of_the_kind_that_it_says() -> None:
    kinds = [type(TypeAdapter[Any](Stage).validate_python(said)) for said in (SFT, GRPO, EVALUATE)]
    assert kinds == [SftStage, GrpoStage, EvaluateStage]
    assert GrpoStage.model_validate(GRPO).loss == GrpoLoss()


def rewards_of(*rewards: dict[str, Any], **values: Any) -> GrpoStage:
    basis = {"kind": "grpo", "lr": 1, "steps": 1, "problems": {"path": "p"}, "rewards": list(rewards)}
    return GrpoStage.model_validate(basis | values)


def test_a_gate_may_be_a_name() -> None:
    stage = rewards_of({"name": "accuracy", "only_if": "format", "clip": [0, 1]}, {"name": "format"})
    assert stage.rewards[0].only_if == Gate(reward="format", at_least=1.0)
    assert stage.rewards[0].clip == (0.0, 1.0)


@pytest.mark.parametrize(
    ("rewards", "values", "reason"),
    [
        ([{"name": "accuracy", "only_if": "form"}], {}, "only_if of accuracy must name one of the rewards"),
        ([{"name": "accuracy", "only_if": "accuracy"}], {}, "only_if of accuracy names itself"),
        ([{"name": "accuracy", "clip": [1, 0]}], {}, "clip must be the least and the most"),
        ([{"name": "accuracy"}], {"advantage": {"kind": "gdpo"}, "kl": {"place": "reward"}}, "put kl in the loss"),
        ([{"name": "accuracy"}], {"kl": {"place": "reward"}}, "advantage grpo divides by a group's deviation"),
    ],
)
def test_rewards_that_do_not_fit_together(rewards: list[dict[str, Any]], values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        rewards_of(*rewards, **values)


def test_a_label_names_a_reward_everywhere() -> None:
    stage = rewards_of({"name": "my.py:judge", "label": "mine"}, evaluation={"accuracy": "mine"})
    assert stage.evaluation is not None
