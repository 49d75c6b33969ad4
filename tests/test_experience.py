import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo.batch import Trajectory
from grpo.experience import (
    engines_own,
    has_entropy_bonus,
    mask_reasons,
    minibatches,
    part_matrix,
    reward_matrix,
    step_advantages,
)
from grpo.grpo_stage import GrpoStage
from grpo.types import Completion, Finish, Group, Problem, Score, ScoredGroup

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]
NO_KL = {"kl": {"beta": 0}}


def stage(**values: Any) -> GrpoStage:
    basis = {"kind": "grpo", "lr": 1, "steps": 1, "problems": {"path": "p"}, "rewards": [{"name": "accuracy"}]}
    return GrpoStage.model_validate(basis | values)


def scored(
    number: int, totals: list[float | None], lengths: list[int] | None = None, cut: tuple[int, ...] = ()
) -> ScoredGroup:
    """A group whose tokens say which completion they belong to: 10 * group + place."""
    lengths = lengths or [2] * len(totals)

    def completion(place: int) -> Completion:
        finish: Finish = "length" if place in cut else "stop"
        return Completion("", (10 * number + place,) * lengths[place], (-float(place),) * lengths[place], finish, 0)

    group = Group(Problem(f"{number}", "", {}), (99,), tuple(map(completion, range(len(totals)))))
    return ScoredGroup(group, tuple(Score(total, {"accuracy": total}, {}) for total in totals))


def owners(trajectories: list[Trajectory]) -> list[int]:
    return [t.tokens.target_ids[0] for t in trajectories]


def learned(groups, advantages_PG, settings):
    """The minibatches where ratios are taken to the engine's own probabilities."""
    return minibatches(groups, engines_own(groups), advantages_PG, settings)


def ones(groups: list[ScoredGroup]) -> Tensor:
    return torch.ones(len(groups), len(groups[0].scores), dtype=torch.float64)


def test_rewards_are_float64_and_nan_where_a_completion_cannot_be_scored() -> None:
    rewards_PG = reward_matrix([scored(0, [1.0, None]), scored(1, [0.1, 0.0])])
    assert rewards_PG.dtype == torch.float64
    assert rewards_PG.nan_to_num(-7).tolist() == [[1.0, -7.0], [0.1, 0.0]]


def test_one_reward_s_values() -> None:
    groups = [scored(0, [1.0, None])]
    assert part_matrix(groups, "accuracy").nan_to_num(-7).tolist() == [[1.0, -7.0]]
    assert part_matrix(groups, "format").isnan().all()


def test_masks() -> None:
    groups = [scored(0, [1.0, None, 0.0], cut=(1, 2))]
    assert mask_reasons(groups, mask_truncated=False) == [[None, "unscorable", None]]
    assert mask_reasons(groups, mask_truncated=True) == [[None, "unscorable", "truncated"]]


def test_a_trajectory_by_hand() -> None:
    """seq-mean-token-mean over two sequences of 2 and 4 tokens: 1 / (2 * 2) and 1 / (2 * 4)."""
    ((first, second),) = learned([scored(0, [1.0, 0.0], [2, 4])], torch.tensor([[0.5, -0.5]]), stage())
    assert (first.tokens.prompt_ids, first.tokens.target_ids) == ((99,), (0, 0))
    assert (first.advantage, first.weight, second.advantage, second.weight) == (0.5, 1 / 4, -0.5, 1 / 8)
    assert second.sampler_logprobs == (-1.0,) * 4


def test_minibatches_hold_whole_groups_and_epochs_repeat_them() -> None:
    groups = [scored(number, [1.0, 0.0]) for number in range(4)]
    parts = learned(groups, ones(groups), stage(prompts_per_step=4, minibatches_per_step=2, epochs_per_step=2))
    assert [owners(part) for part in parts] == [[0, 1, 10, 11], [20, 21, 30, 31]] * 2
    assert {t.weight for part in parts for t in part} == {1 / (4 * 2)}  # over the minibatch, not the step


def test_a_step_that_fell_short_has_fewer_minibatches() -> None:
    groups = [scored(number, [1.0, 0.0]) for number in range(5)]
    parts = learned(groups, ones(groups), stage(prompts_per_step=8, minibatches_per_step=4))
    assert [owners(part) for part in parts] == [[0, 1, 10, 11], [20, 21, 30, 31], [40, 41]]


@pytest.mark.parametrize("aggregation", ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"])
def test_masked_sequences_are_left_out_and_do_not_count(aggregation: str) -> None:
    settings = stage(loss={"aggregation": aggregation}, mask_truncated=True)
    with_masked = [scored(0, [1.0, None, 0.0, 0.5], [2, 9, 4, 9], cut=(3,))]
    without = [scored(0, [1.0, 0.0], [2, 4])]
    (got,), (expected,) = (
        learned(with_masked, ones(with_masked), settings),
        learned(without, ones(without), settings),
    )
    assert owners(got) == [0, 2]
    assert [t.weight for t in got] == [t.weight for t in expected]


SILENT: list[dict[str, Any]] = [
    NO_KL,
    {"kl": {"beta": 0.1, "place": "reward"}, "advantage": {"kind": "rloo"}},
]
MOVING: list[dict[str, Any]] = [
    {"kl": {"beta": 0.1}},
    NO_KL | {"entropy": {"bonus": 0.01}},
    NO_KL | {"entropy": {"target": 0.5, "delta": 0.01}},
]


@pytest.mark.parametrize("settings", SILENT)
@pytest.mark.parametrize("aggregation", ["seq-mean-token-mean", "token-mean"])
def test_sequences_that_move_nothing_are_left_out_but_count(settings: dict[str, Any], aggregation: str) -> None:
    groups, loss = [scored(0, [1.0, 0.0, 1.0], [2, 4, 2])], {"loss": {"aggregation": aggregation}}
    (kept,) = learned(groups, torch.tensor([[1.0, 0.0, -1.0]]), stage(**settings, **loss))
    (everything,) = learned(groups, ones(groups), stage(**settings, **loss))
    assert owners(kept) == [0, 2]
    assert [t.weight for t in kept] == [everything[0].weight, everything[2].weight]


@pytest.mark.parametrize("settings", MOVING)
def test_sequences_stay_when_kl_or_entropy_moves_them(settings: dict[str, Any]) -> None:
    groups = [scored(0, [1.0, 0.0])]
    (kept,) = learned(groups, torch.zeros(1, 2), stage(**settings))
    assert owners(kept) == [0, 1]


def test_a_step_without_signal_has_empty_minibatches() -> None:
    groups = [scored(0, [1.0, 1.0]), scored(1, [None, None])]
    assert learned(groups, torch.zeros(2, 2), stage(**NO_KL, prompts_per_step=2, minibatches_per_step=2)) == [
        [],
        [],
    ]


def test_when_entropy_enters_the_loss() -> None:
    said: list[tuple[dict[str, float], bool]] = [
        ({}, False), ({"bonus": 0.1}, True), ({"target": 1.0, "delta": 0.1}, True),
    ]  # fmt: skip
    assert [has_entropy_bonus(stage(entropy=entropy)) for entropy, _ in said] == [answer for _, answer in said]


def test_nan_never_becomes_an_advantage_of_a_trajectory() -> None:
    groups = [scored(0, [1.0, None])]
    (kept,) = learned(groups, torch.tensor([[1.0, math.nan]]), stage())
    assert owners(kept) == [0]


def scored_parts(
    parts: list[dict[str, float | None]], counted: list[dict[str, float | None]] | None = None
) -> ScoredGroup:
    completions = tuple(Completion("", (1,), (0.0,), "stop", 0) for _ in parts)
    group = Group(Problem("p", "", {}), (1,), completions)
    shaped = counted or [{} for _ in parts]
    return ScoredGroup(group, tuple(Score(1.0, one, {}, {}, own) for one, own in zip(parts, shaped, strict=True)))


def gdpo_stage(**weights: float) -> GrpoStage:
    rewards = [{"name": name, "weight": weight} for name, weight in weights.items()]
    return stage(rewards=rewards, advantage={"kind": "gdpo"})


def test_gdpo_normalises_every_reward_by_itself_as_in_the_golden_vector() -> None:
    vector = VECTORS["adv.gdpo"]
    values = vector["inputs"]["rewards"]
    parts = [{"accuracy": a, "format": f} for a, f in zip(values["acc"], values["format"], strict=True)]
    found = step_advantages([scored_parts(parts)], torch.zeros(1, 4), gdpo_stage(accuracy=1.0, format=1.0))
    assert found[0].tolist() == pytest.approx(vector["expected"]["advantages"], abs=1e-9)


def test_gdpo_takes_what_counts_and_leaves_out_weight_0() -> None:
    parts: list[dict[str, float | None]] = [{"accuracy": 1.0, "format": 9.0}, {"accuracy": 1.0, "format": 7.0}]
    gated: list[dict[str, float | None]] = [{"accuracy": 1.0, "format": 9.0}, {"accuracy": 0.0, "format": 7.0}]
    stage = gdpo_stage(accuracy=1.0, format=0.0)
    first, second = step_advantages([scored_parts(parts, gated)], torch.zeros(1, 2), stage)[0].tolist()
    assert first == -second > 0
    assert step_advantages([scored_parts(parts)], torch.zeros(1, 2), stage)[0].tolist() == [0.0, 0.0]
