"""The smaller moves of a GRPO stage."""

import pytest
import torch

from grpo.journal import Rollout
from grpo.metrics import Clock
from grpo.stages.grpo_parts import step_figures
from grpo.tally import Tally


def test_the_gap_to_the_sampler_is_told_before_the_first_and_the_last_update_that_there_was() -> None:
    def update(gap: float) -> Tally:
        return Tally().add("loss", 1.0).mean("sampler/mismatch_mean", gap).mean("router/0/rerouted", gap)

    nothing = Tally().add("loss", 0.0).add("no_signal", 1.0)
    clock = Clock()
    with clock("learn"):
        pass
    tallies = [nothing, update(0.25), update(0.5), update(2.0), nothing]
    figures = step_figures(Rollout(1, 1, [], {}), tallies, clock, torch.zeros(()))
    assert figures["sampler/mismatch_mean"] == figures["router/0/rerouted"] == 0.25
    assert figures["sampler/mismatch_mean_last"] == 2
    assert figures["loss"] == pytest.approx(3 / 5)
    assert "sampler/mismatch_mean_last" not in step_figures(
        Rollout(1, 1, [], {}), [update(0.25)], clock, torch.zeros(())
    )
