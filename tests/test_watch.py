"""The watch for reward hacking, step by step with numbers worked out by hand."""

from collections.abc import Mapping
from typing import Any

import pytest

from grpo.evaluation import wilson_interval
from grpo.grpo_stage import GrpoStage
from grpo.watch import parting, watched, watched_rewards

PROBLEMS = 100


def evaluation(right: int) -> dict[str, float]:
    low, high = wilson_interval(right, PROBLEMS)
    return {
        "evaluation/accuracy": right / PROBLEMS,
        "evaluation/accuracy_low": low,
        "evaluation/accuracy_high": high,
    }


def follow(
    *steps: dict[str, float], before: Mapping[str, float] | None = None, weight: float = 1.0
) -> list[dict[str, float]]:
    """What the watch adds at every step, each step knowing the newest figures of those before it."""
    known, found = dict(before or {}), []
    for figures in steps:
        found.append(watched(known, figures, {"liked": weight}))
        known |= figures | found[-1]
    return found


def liked(value: float) -> dict[str, float]:
    return {"reward/liked": value}


def test_the_running_mean_moves_a_fifth_of_the_way() -> None:
    means = [added.get("watch/liked") for added in follow(liked(1.0), liked(2.0), {}, liked(0.2))]
    assert means == pytest.approx([1.0, 1.2, None, 1.0])


def test_preference_up_and_accuracy_down_have_parted() -> None:
    """From 80 right to 60 of 100: the intervals are 0.0777 and 0.0942 wide on a side, together 0.122."""
    *_, added = follow(liked(0.0) | evaluation(80), liked(1.0), liked(1.0) | evaluation(60))
    assert added["watch/fell"] == pytest.approx(0.2)
    assert added["watch/noise"] == pytest.approx(0.1222, abs=1e-4)
    assert added["watch/parted"] == 1.0
    assert (added["watch/liked"], added["watch/accuracy_then"]) == pytest.approx((0.36, 0.8))


@pytest.mark.parametrize(
    ("first", "last", "right"),
    [
        (0.0, 1.0, 70),  # accuracy fell by 0.1, within its noise
        (1.0, 0.0, 60),  # both fell
        (0.0, 1.0, 90),  # both rose
    ],
)
def test_what_has_not_parted(first: float, last: float, right: int) -> None:
    *_, added = follow(liked(first) | evaluation(80), liked(last) | evaluation(right))
    assert added["watch/parted"] == 0.0


def test_of_a_reward_with_a_negative_weight_less_is_more() -> None:
    steps = [liked(0.0) | evaluation(80), liked(-5.0) | evaluation(60)]
    *_, added = follow(*steps, weight=-0.25)
    assert (added["watch/liked"], added["watch/parted"]) == (1.0, 1.0)
    assert follow(*steps)[-1]["watch/parted"] == 0.0


def test_the_best_so_far_is_what_counts_and_preference_is_measured_from_there() -> None:
    steps = [liked(0.0) | evaluation(50), liked(2.0) | evaluation(80), liked(1.0) | evaluation(60)]
    *_, added = follow(*steps)
    assert added["watch/fell"] == pytest.approx(0.2)
    assert added["watch/liked"] == pytest.approx(0.52)  # above the 0.4 at the best
    assert added["watch/parted"] == 1.0


def test_the_evaluation_before_the_first_step_counts() -> None:
    """General problems come in later: their reward is measured from its own first step on."""
    steps = [{}, liked(0.5), liked(0.6) | evaluation(60)]
    *_, added = follow(*steps, before=evaluation(80))
    assert (added["watch/parted"], added["watch/accuracy_then"]) == (1.0, 0.8)
    *_, steady = follow({}, liked(0.5), liked(0.5) | evaluation(60), before=evaluation(80))
    assert steady["watch/parted"] == 0.0


def test_a_resumed_run_knows_what_it_knew() -> None:
    """Everything is in the figures: cut in two anywhere, the watch says the same."""
    steps = [liked(0.0) | evaluation(80), liked(1.0), liked(1.0) | evaluation(60), liked(3.0) | evaluation(55)]
    whole = follow(*steps)
    for cut in range(1, len(steps)):
        first = follow(*steps[:cut])
        known: dict[str, float] = {}
        for figures, added in zip(steps[:cut], first, strict=True):
            known |= figures | added
        assert first + follow(*steps[cut:], before=known) == whole


def stage(**evaluation: Any) -> GrpoStage:
    return GrpoStage.model_validate(
        {
            "kind": "grpo",
            "problems": {"path": "p.jsonl"},
            "steps": 1,
            "lr": 1e-6,
            "rewards": [
                {"name": "accuracy"},
                {"name": "reward_model", "label": "liked", "options": {"model": "m"}},
                {"name": "judge", "weight": 0, "options": {"url": "http://h", "model": "m"}},
            ],
            "evaluation": evaluation,
        }
    )


def test_rewards_of_preference_that_count_are_watched() -> None:
    assert watched_rewards(stage()) == {"liked": 1.0, "mean": 1.0}  # and the total
    assert watched_rewards(stage(watch=["judge", "accuracy"])) == {"accuracy": 1.0, "judge": 0.0}
    assert watched_rewards(stage(watch=[])) == {}
    with pytest.raises(ValueError, match=r"evaluation\.watch must name one of the rewards"):
        stage(watch=["other"])


def test_how_far_they_have_parted_in_a_sentence() -> None:
    steps = [liked(0.0) | evaluation(80), liked(1.0) | evaluation(60)]
    first, second = follow(*steps)
    assert parting(steps[0] | first | steps[1] | second, ["liked"]) == (
        "liked rose from 0.000 to 0.200, while held-out accuracy fell from 0.800 to 0.600, by more than its noise of "
        "0.122"
    )
