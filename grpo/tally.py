"""Figures that are gathered piece by piece: sums, means over tokens, maxima, and sums of whole tensors."""

import math
from collections import defaultdict
from typing import Self

from torch import Tensor


class Tally:
    """Collects figures over micro-batches, minibatches and processes; merging does not depend on the split."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.means: dict[str, tuple[float, float]] = {}
        self.maxima: dict[str, float] = {}
        self.tensors: dict[str, Tensor] = {}

    def add(self, name: str, value: float) -> Self:
        """Add to a sum."""
        self.sums[name] += value
        return self

    def mean(self, name: str, value: float, count: float = 1.0) -> Self:
        """Add `count` observations that sum to `value` to a mean."""
        total, seen = self.means.get(name, (0.0, 0.0))
        self.means[name] = (total + value, seen + count)
        return self

    def tokens(self, name: str, values_N: Tensor) -> Self:
        """Add one observation per token to a mean."""
        return self.mean(name, values_N.detach().double().sum().item(), values_N.numel())

    def maximum(self, name: str, value: float) -> Self:
        """Keep the largest value; NaN outlasts every number, as it does in sums."""
        known = self.maxima.get(name, value)
        self.maxima[name] = known if math.isnan(known) else max(value, known)
        return self

    def tensor(self, name: str, values: Tensor) -> Self:
        """Add to a sum of tensors, which is no figure by itself."""
        values = values.detach().double().cpu()
        self.tensors[name] = self.tensors[name] + values if name in self.tensors else values
        return self

    def merge(self, other: "Tally") -> Self:
        """Take in another tally."""
        for name, value in other.sums.items():
            self.add(name, value)
        for name, (total, seen) in other.means.items():
            self.mean(name, total, seen)
        for name, value in other.maxima.items():
            self.maximum(name, value)
        for name, values in other.tensors.items():
            self.tensor(name, values)
        return self

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        means = {name: total / seen for name, (total, seen) in self.means.items() if seen}
        return {**self.sums, **means, **self.maxima}
