"""The doctor's rounds: every finding asked after every step, and what that makes a person hear once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grpo.doctor.chart import ENOUGH, Chart, Load
from grpo.doctor.finding import Finding
from grpo.doctor.registry import FINDINGS, Find
from grpo.training_settings import TrainingSettings

QUIET = ENOUGH
"""Steps without a finding after which it is over: at its threshold, noise would end and begin it all the time."""


@dataclass(frozen=True)
class News:
    """What a step has changed: findings that begin, findings that are over, and all that are there now."""

    began: Sequence[Finding]
    ended: Sequence[Finding]
    present: Sequence[Finding]


class Rounds:
    """The findings of one stage, from the step that they began at to the last that they were seen at."""

    def __init__(self, name: str, index: int, stage: TrainingSettings):
        self.chart = Chart(name, index, stage)
        self.past: list[Finding] = []
        self._present: dict[Find, Finding] = {}
        self._heard: set[Find] = set()

    @property
    def present(self) -> list[Finding]:
        """What is there now, worst first."""
        return [self._present[find] for find in FINDINGS if find in self._present]

    @property
    def findings(self) -> list[Finding]:
        """Everything that was found: what is there now, then what is over."""
        return [*self.present, *self.past]

    def after(self, step: int, figures: Mapping[str, float | None], load: Load | None = None) -> News:
        """Take in a step and ask for every finding."""
        self.chart.add(step, figures, load)
        ended = []
        for find in FINDINGS:
            found, known = find(self.chart), self._present.get(find)
            if found is not None:
                self._present[find] = found if known is None else replace(found, first_step=known.first_step)
            elif known is not None and step - known.last_step >= QUIET:
                self.past.append(self._present.pop(find))
                ended += [known] if find in self._heard else []
        began = [found for find, found in self._present.items() if find not in self._heard]
        self._heard = set(self._present)
        return News(began, ended, self.present)

    def forget_what_was_said(self) -> None:
        """A process that resumes a stage says again, once, what is still there: its output begins anew."""
        self._heard.clear()


def begun(found: Finding) -> str:
    """The line that a person reads when a finding begins."""
    return f"doctor: {found.name} (from step {found.first_step}): {found.evidence}; change {found.change}"


def over(found: Finding) -> str:
    """The line that a person reads when it is over."""
    return f"doctor: {found.name} is over (steps {found.first_step} to {found.last_step})"
