"""What is known of a stage: every figure by step, kept by name so that a finding looks at its window alone."""

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence

from grpo.training_settings import TrainingSettings

Points = Sequence[tuple[int, float]]
"""Steps and what a figure was there."""
Load = Sequence[Sequence[float]]
"""The tokens that each expert of each router got in a step."""

WINDOW = 10
"""Steps that a finding looks back on: enough to average the noise of a step out, few enough to tell soon."""
ENOUGH = 5
"""Steps of a window that must have been measured, and those at the start of a stage that are its baseline."""
EARLY = 2
"""Steps that are the baseline of lengths and of exploding entropy, the fewest whose mean has an error: within five, all
may be over."""

_OF_ONE_ROUTER = re.compile(r"router/\d+/")


class Chart:
    """The figures of one stage so far. Only `add` changes it."""

    def __init__(self, name: str, index: int, stage: TrainingSettings):
        self.name = name
        self.index = index
        self.stage = stage
        self.step = 0
        self.loads: list[tuple[int, Load]] = []
        self._points: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._totals: dict[str, float] = defaultdict(float)

    def add(self, step: int, figures: Mapping[str, float | None], load: Load | None = None) -> None:
        """Take in a step. What is not finite is no point, and the loads of the last window alone are kept."""
        self.step = step
        for name, value in figures.items():
            if isinstance(value, int | float) and math.isfinite(value) and not _OF_ONE_ROUTER.match(name):
                self._points[name].append((step, float(value)))
                self._totals[name] += value
        if load is not None:
            same = [one for one in self.loads if [*map(len, one[1])] == [*map(len, load)]]  # else of another model
            self.loads = [*same, (step, load)][-WINDOW:]

    def names(self, prefix: str) -> list[str]:
        """The figures whose names begin so."""
        return [name for name in self._points if name.startswith(prefix)]

    def all(self, name: str) -> Points:
        """Every point of a figure."""
        return self._points.get(name, [])

    def first(self, name: str, since: int = 0) -> Points:
        """The baseline of a figure: its first points, of the stage or since a step."""
        start = self.place(name, since)
        return self.all(name)[start : start + ENOUGH]

    def recent(self, name: str, ago: int = 0, steps: int = WINDOW) -> Points:
        """The points of a figure in the newest window of so many steps, or in the one that ended `ago` steps ago."""
        end = self.step - ago
        return self.all(name)[self.place(name, end - steps + 1) : self.place(name, end + 1)]

    def place(self, name: str, step: int) -> int:
        """How many points of a figure were before a step."""
        return bisect_left(self.all(name), step, key=lambda point: point[0])

    def total(self, name: str) -> float:
        """The sum of a figure over the stage."""
        return self._totals.get(name, 0.0)

    def latest(self, name: str) -> float | None:
        """The newest value of a figure, however old."""
        points = self.all(name)
        return points[-1][1] if points else None


def is_load(value: object) -> bool:
    """Whether what a log holds is a load: routers of equally many experts, each with a number of tokens."""
    if not isinstance(value, list) or not value:
        return False
    routers = all(isinstance(router, list) and router and len(router) == len(value[0]) for router in value)
    return routers and all(_is_count(tokens) for router in value for tokens in router)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def values(points: Points) -> list[float]:
    """What a figure was, step after step."""
    return [value for _, value in points]
