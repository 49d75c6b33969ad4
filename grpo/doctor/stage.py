"""What a finding asks of a stage's settings."""

from grpo.doctor.chart import WINDOW, Chart, values
from grpo.doctor.noise import SURE, rise
from grpo.grpo_stage import GrpoStage
from grpo.sft_stage import SftStage
from grpo.training_settings import TrainingSettings


def completions_a_step(stage: GrpoStage) -> int:
    """Completions that a step samples at least; dynamic sampling may sample more."""
    return stage.prompts_per_step * stage.completions_per_prompt


def completions_in(stage: GrpoStage, groups: float, steps: int) -> int:
    """Completions of so many groups that were sampled; where their number is not logged, of so many steps."""
    return round(groups) * stage.completions_per_prompt or steps * completions_a_step(stage)


def updates_a_step(stage: GrpoStage) -> int:
    """Optimizer steps that learn from one rollout."""
    return stage.minibatches_per_step * stage.epochs_per_step


def problems_key(stage: GrpoStage) -> str:
    """Where a stage says what its problems are; of a mixture, its first source."""
    return "problems.sources.0" if stage.problems.sources else "problems"


def problems_since(stage: TrainingSettings, step: int) -> int:
    """The step at which the newest source of problems began: from there on they are others."""
    if not isinstance(stage, GrpoStage | SftStage):
        return 1
    return max((source.first_step for source in stage.problems.sources or () if source.first_step <= step), default=1)


def problems_origin(stage: GrpoStage) -> str:
    """The key that decides what problems are: params, which only a task or a function has, or where they are."""
    source = stage.problems.each[0]
    return next((key for key in ("path", "dataset", "stage") if getattr(source, key) is not None), "params")


def accuracy_reward(stage: TrainingSettings) -> str | None:
    """The reward that says what is right: the evaluation's, or the built-in one."""
    if not isinstance(stage, GrpoStage):
        return None
    if stage.evaluation is not None:
        return stage.evaluation.accuracy
    return next((reward.shown_as for reward in stage.rewards if reward.name == "accuracy"), None)


def lower_rate(settings: TrainingSettings) -> tuple[str, float]:
    """A tenth of the learning rate: the step by which rates are commonly searched."""
    return "lr", settings.lr / 10


def has_gained(chart: Chart, ago: int | None = None, since: int = 0) -> bool:
    """Whether what counts as right has risen since the first steps, of the stage or `since` one of its steps, or since
    the window `ago` steps ago.

    Where problems were others then, accuracy in training says nothing, and the policy gets the benefit of the doubt; a
    curriculum, which passes over what is solved, makes them others at every step, and held-out accuracy decides.
    """
    stage = chart.stage
    if isinstance(stage, GrpoStage) and stage.curriculum is not None:
        return _held_out_rose(chart, since if ago is None else chart.step - ago + 1)
    if ago is not None and chart.step - ago - WINDOW + 1 < problems_since(stage, chart.step):
        return True
    return has_risen(chart, ago, max(since, problems_since(stage, chart.step)))


def has_risen(chart: Chart, ago: int | None = None, since: int = 0) -> bool:
    """The same by training alone: of accuracy, or where nothing is measured by it, of the total reward.

    It is compared with the first steps, of the stage or `since` one of its steps.
    """
    name = f"reward/{accuracy_reward(chart.stage) or 'mean'}"
    before = chart.first(name, since) if ago is None else chart.recent(name, ago)
    return rise(values(before), values(chart.recent(name))) > SURE


def _held_out_rose(chart: Chart, since: int) -> bool:
    """Whether held-out accuracy is above what it was before a step, or at first, by half its interval. Not measured
    since, it may have risen.
    """
    measured, high, low = (chart.all(f"evaluation/accuracy{end}") for end in ("", "_high", "_low"))
    before = max(chart.place("evaluation/accuracy", since) - 1, 0)
    if before >= len(measured) - 1 or not high or not low:
        return True
    return measured[-1][1] - measured[before][1] > (high[0][1] - low[0][1]) / 2
