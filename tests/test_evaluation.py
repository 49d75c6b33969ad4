import json
import math
from itertools import combinations
from pathlib import Path

import pytest

from grpo.evaluation import cons_at_k, mean_interval, pass_at_k, wilson_interval, winners
from grpo.types import UserError

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]


def test_pass_at_k() -> None:
    vector = VECTORS["eval.pass_at_k"]
    inputs, expected = vector["inputs"], vector["expected"]
    found = [pass_at_k(inputs["n"], inputs["c"], k) for k in inputs["k"]]
    assert found == pytest.approx(expected["pass_at_k"], abs=1e-9)
    assert pass_at_k(inputs["n"], inputs["c"], 1) == pytest.approx(expected["r1_pass_at_1"], abs=1e-9)


def test_pass_at_k_is_the_share_of_choices_with_a_right_sample() -> None:
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                choices = list(combinations(range(n), k))
                share = sum(min(choice) < c for choice in choices) / len(choices)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_of_many_samples() -> None:
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(UserError, match=f"got n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


def test_consensus() -> None:
    vector = VECTORS["eval.cons_at_k"]
    answers, gold = vector["inputs"]["answers"], vector["inputs"]["gold"]
    assert winners(answers) == [vector["expected"]["vote"]]
    assert cons_at_k(answers, {gold}, len(answers)) == float(vector["expected"]["correct"])
    right = sum(answer == gold for answer in answers)
    assert pass_at_k(len(answers), right, 1) == vector["expected"]["pass_at_1"]


def test_consensus_of_ties_and_of_nothing() -> None:
    assert winners(["12", "7", "7", "12"]) == ["12", "7"]
    assert winners([None, None, None, "7"]) == ["7"]
    assert winners([None, None]) == winners([]) == []
    assert cons_at_k(["12", "7", "7", "12"], {"7"}, 4) == 0.5
    assert cons_at_k(["12", "7", "5"], {"7"}, 3) == pytest.approx(1 / 3)
    assert cons_at_k([None, None], {"7"}, 2) == 0.0


def test_consensus_of_fewer_than_all_samples_is_the_mean_over_separate_ones() -> None:
    votes = ["7", "7", "1", "1", "1", "7", "2"]
    assert cons_at_k(votes, {"7"}, 3) == 0.5  # 7 7 1 is right, 1 1 7 is wrong, 2 is left over
    assert cons_at_k(votes, {"7"}, 1) == pytest.approx(3 / 7)  # cons@1 is pass@1
    with pytest.raises(UserError, match="cons@k: expected 1 <= k <= n, got n=7, k=8"):
        cons_at_k(votes, {"7"}, 8)


def test_wilson_interval_by_hand() -> None:
    # n = 10, 5 right, z = 1.96: centre 0.5; half 1.96 sqrt(0.025 + 3.8416 / 400) / 1.38416 = 0.2634
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    # none right: 0 to z^2 / (n + z^2)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 3.8415 / 13.8415), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((10 / 13.8415, 1.0), abs=1e-4)


def test_wilson_interval_holds_the_roots_of_the_score_equation() -> None:
    z = 1.6448536269514722  # 90 %
    for bound in wilson_interval(3, 20, confidence=0.9):
        assert abs(3 / 20 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 20))


def test_mean_interval_by_hand() -> None:
    # mean 0.5, std sqrt(2 * 0.25 / 3) = 0.40825, standard error 0.20412, times 1.95996
    assert mean_interval([0.0, 0.5, 0.5, 1.0]) == pytest.approx((0.5 - 0.40008, 0.5 + 0.40008), abs=1e-5)
    assert mean_interval([0.0, 1.0]) == (0.0, 1.0)


def test_equal_values_do_not_prove_certainty() -> None:
    assert mean_interval([1.0] * 10) == wilson_interval(10, 10)
    assert mean_interval([0.25]) == wilson_interval(0.25, 1)


@pytest.mark.parametrize("values", [[], [2.0, 2.0]])
def test_an_interval_needs_problems_and_shares(values: list[float]) -> None:
    with pytest.raises(UserError, match="interval: expected"):
        mean_interval(values)
