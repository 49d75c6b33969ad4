"""What an engine is: something that samples completions and can be given newer weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from grpo.types import Completion


@dataclass(frozen=True)
class SampleRequest:
    """One prompt, and one completion to sample per seed. The same seed gives the same completion."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy. `stop` strings end a completion and stay part of it."""

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


class ReplicaLost(Exception):
    """A replica is gone while it was asked; ask the engine for those that are left."""


class Sampler(Protocol):
    """One place that samples with one version of the policy's weights."""

    def generate(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[list[Completion]]:
        """Return, for every request in order, one completion per seed in order."""
        ...


class Engine(Sampler, Protocol):
    """Samples completions of token ids, in one place or several."""

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Sample with the weights of `model` from now on; completions carry `version`."""
        ...

    def replicas(self) -> Sequence[Sampler]:
        """Each place that holds a copy of the weights, to be checked by itself; none where the model itself samples."""
        ...

    def check_with(self, check: Callable[[Sampler], None]) -> None:
        """Have `check` judge a place that gets the weights between two pushes, before it samples."""
        ...

    def rest(self) -> None:
        """Lend its memory to the learner until it is next used."""
        ...

    def close(self) -> None:
        """Free everything; the engine is not used again."""
        ...
