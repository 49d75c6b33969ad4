"""From the policy to the engine: the one place where an engine gets newer weights, and where it is checked."""

import time
from collections.abc import Sequence
from functools import partial

from torch import nn

from grpo.rollout.engine import Engine, ReplicaLost, Sampler
from grpo.rollout.verification import (
    Answer,
    Probe,
    ask_replica,
    compared_with_next,
    describe,
    gap_figures,
    is_sound,
    likely_cause,
    unseen,
)
from grpo.types import TrainingFailure


class WeightPush:
    """Pushes the policy's weights to an engine and verifies every push, and every replica that gets them later.

    The check is skipped where the engine samples with the policy itself: there is no copy that could be wrong.
    """

    def __init__(self, engine: Engine, probe: Probe):
        self._engine = engine
        self._probe = probe
        self._before: list[Answer] = []

    def __call__(self, model: nn.Module, version: int) -> dict[str, float]:
        """Let the engine sample with the policy's weights, which completions will carry as `version`.

        Returns the gap that was found and the time of the check.

        Raises:
            TrainingFailure: the engine's probabilities are not the policy's, after a second push too.
        """
        self._engine.check_with(partial(self._check_late, model, version))
        self._engine.load_weights(model, version)
        start = time.perf_counter()
        replicas, answers = self._ask(model)
        retried = not self._all_sound(answers)
        if retried:
            self._engine.load_weights(model, version)
            replicas, answers = self._ask(model)
        self._demand(replicas, answers, model, version)
        self._before = [compared_with_next(answer, before) for answer, before in self._pairs(answers)]
        cost = {"time/check": time.perf_counter() - start, "check/retried": float(retried)}
        return {**gap_figures(answers), **cost} if answers else {}

    def _ask(self, model: nn.Module) -> tuple[Sequence[Sampler], list[Answer]]:
        """Every replica's answer; again from the first when one is lost meanwhile."""
        while True:
            replicas = self._engine.replicas()
            try:
                return replicas, [ask_replica(replica, model, self._probe) for replica in replicas]
            except ReplicaLost:
                continue

    def _all_sound(self, answers: list[Answer]) -> bool:
        return all(is_sound(answer, self._probe, before) for answer, before in self._pairs(answers))

    def _demand(self, replicas: Sequence[Sampler], answers: list[Answer], model: nn.Module, version: int) -> None:
        for number, (answer, before) in enumerate(self._pairs(answers)):
            if not is_sound(answer, self._probe, before):
                raise TrainingFailure(
                    f"weights of version {version}: engine {number + 1} of {len(answers)} does not sample with them, "
                    f"after a second push either: {self._described(replicas[number], model, answer, before)}"
                )

    def _check_late(self, model: nn.Module, version: int, replica: Sampler) -> None:
        """Judge a replica that got the weights after their push. Raises TrainingFailure."""
        answer = ask_replica(replica, model, self._probe)
        if not is_sound(answer, self._probe, None):
            raise TrainingFailure(
                f"weights of version {version}: an engine that came back and got them by itself does not sample with "
                f"them: {self._described(replica, model, answer, None)}"
            )

    def _described(self, replica: Sampler, model: nn.Module, answer: Answer, before: Answer | None) -> str:
        uncached = ask_replica(replica, model, unseen(self._probe))
        return describe(answer, self._probe, likely_cause(answer, before, uncached, self._probe))

    def _pairs(self, answers: list[Answer]) -> list[tuple[Answer, Answer | None]]:
        known = self._before if len(self._before) == len(answers) else [None] * len(answers)
        return list(zip(answers, known, strict=True))
