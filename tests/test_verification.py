"""The check of a push by hand: what counts as a gap, and which cause is told."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from grpo.engine_settings import CheckSettings
from grpo.rollout.verification import (
    Answer,
    Probe,
    compared_with_next,
    describe,
    gap_figures,
    is_sound,
    likely_cause,
    make_probe,
    unseen,
)
from grpo.types import Completion


def probe(kind: Any = "exact", temperature: float = 1.0, **settings: float) -> Probe:
    return make_probe([(1, 2, 3), (4, 5)], 4, CheckSettings.model_validate(settings), temperature, "fp32", kind)


def answer(*rows: list[tuple[float, float]]) -> Answer:
    """Of every completion its tokens' log-probabilities, the engine's and the learner's; token t has the id t."""
    completions = tuple(
        Completion("", tuple(range(len(row))), tuple(engine for engine, _ in row), "length", 1) for row in rows
    )
    return Answer(completions, torch.tensor([learner for row in rows for _, learner in row]))


SOUND = answer([(-1.0, -1.0), (-2.0, -2.0001)], [(-3.0, -3.0)])


def test_prompts_are_windows_of_the_runs_own_tokens() -> None:
    windows = [request.prompt_ids for request in probe(sequences=3).requests]
    assert windows == [(1, 2, 3, 4), (5, 1, 2, 3), (4, 5, 1, 2)]
    assert probe(sequences=3) == probe(sequences=3)
    assert [request.prompt_ids for request in unseen(probe(sequences=3)).requests] == [w[::-1] for w in windows]


def test_tolerances() -> None:
    assert probe().tolerance == 1e-3
    assert probe(temperature=0.5).tolerance == 2e-3  # logits are divided by it, and their rounding with them
    assert probe(temperature=2.0).tolerance == 1e-3
    assert (probe("dense").tolerance, probe("experts").tolerance) == (0.1, 0.25)
    assert probe(tolerance=0.01).tolerance == 0.01


def test_float32_is_judged_by_its_largest_gap_and_bfloat16_by_its_mean() -> None:
    one_off = answer([(-1.0, -1.0), (-2.0, -2.6)], [(-3.0, -3.0)])  # largest 0.6, mean 0.2
    assert is_sound(SOUND, probe(), None)
    assert not is_sound(one_off, probe(), None)
    assert is_sound(one_off, probe("experts"), None)
    assert gap_figures([SOUND, one_off]) == {
        "check/gap_max": pytest.approx(0.6, abs=1e-6), "check/gap_mean": pytest.approx(0.6001 / 6, abs=1e-6)
    }  # fmt: skip


def test_what_is_no_number_is_never_sound() -> None:
    for broken in (math.nan, -math.inf):
        assert not is_sound(answer([(broken, -1.0)]), probe("experts"), None)
        assert not is_sound(answer([(-1.0, broken)]), probe(), None)


def test_an_engine_that_answers_as_before_is_stale_once_the_learner_has_moved() -> None:
    """In bfloat16 the gap alone would not tell."""
    moved = replace(SOUND, learner_logprobs_N=SOUND.learner_logprobs_N - 0.1)
    loose = probe("experts")
    assert is_sound(moved, loose, None)
    assert not is_sound(moved, loose, SOUND)
    assert is_sound(SOUND, loose, SOUND)  # a push of equal weights
    assert "did not take the weights" in likely_cause(moved, SOUND, moved, loose)


def test_steps_too_small_to_be_told_from_rounding_add_up() -> None:
    """The learner moves 0.005 nats a step and the engine never: the fifth step passes 0.02."""
    loose, before = probe("experts"), SOUND
    found = []
    for step in range(1, 6):
        moved = replace(SOUND, learner_logprobs_N=SOUND.learner_logprobs_N - 0.005 * step)
        found.append(is_sound(moved, loose, before))
        before = compared_with_next(moved, before)
    assert found == [True, True, True, True, False]
    other = replace(SOUND, completions=SOUND.completions[::-1])
    assert compared_with_next(other, SOUND) is other


def test_causes_and_the_worst_tokens_are_told() -> None:
    wrong = answer([(-1.0, -1.0), (-2.0, -4.5)], [(-3.0, -3.2)])
    assert "prefix cache was not reset" in likely_cause(wrong, None, SOUND, probe())
    later = answer([(-1.0, -1.0), (-2.0, -4.5)], [(-3.0, -3.0)])
    assert "rotary embedding" in likely_cause(wrong, None, later, probe())
    assert "packed wrongly" in likely_cause(wrong, None, wrong, probe())
    assert describe(wrong, probe(), "a cause") == (
        "the largest gap between engine and learner is 2.5 nats, expected at most 0.001; the worst: token 1 at place 2 "
        "of sequence 1 (engine -2.0000, learner -4.5000); token 0 at place 1 of sequence 2 (engine -3.0000, learner "
        "-3.2000); token 0 at place 1 of sequence 1 (engine -1.0000, learner -1.0000); likely cause: a cause"
    )
