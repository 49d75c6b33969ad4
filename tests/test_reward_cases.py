"""The labelled answers: what equals a gold answer, and what only looks like it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from grpo.rewards.accuracy import accuracy

FOLDER = Path(__file__).parent
CASES = [json.loads(line) for line in (FOLDER / "reward_cases.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_are_cases_of_every_kind_and_a_third_of_them_only_look_right() -> None:
    strata = Counter(case["stratum"] for case in CASES)
    assert len(CASES) == 1406  # README
    assert sum(not case["expected"] for case in CASES) >= len(CASES) / 3
    assert {"plain", "unicode", "interval", "set", "tuple", "matrix", "equation", "inequality", "plusminus"} <= set(
        strata
    )
    assert {"text", "choice", "date", "unit", "percent", "mixed", "extraction", "gold", "hostile"} <= set(strata)


def test_the_reward_agrees_with_the_labels_and_rewards_nothing_that_is_wrong() -> None:
    verdicts = accuracy([case["completion"] for case in CASES], answer=[case["answer"] for case in CASES])
    assert [verdict for verdict in verdicts if isinstance(verdict, Exception)] == []
    rewarded = [case for case, verdict in zip(CASES, verdicts, strict=True) if verdict and not case["expected"]]
    assert rewarded == []
    refused = [case for case, verdict in zip(CASES, verdicts, strict=True) if case["expected"] and not verdict]
    assert {case["answer"] for case in refused} == REFUSED
    assert len(refused) == len(REFUSED)


REFUSED = {
    "{}_5C_2",  # beside 10
    r"\frac{3}{8}",  # beside "3 out of 8"
    r"\text{max}=5",  # beside 5
    r"\log 100",  # beside 2
    r"(-\infty,-1)\cup(1,\infty)",  # beside "x<-1 \cup x>1"
}
"""Golds of the right answers that the reward refuses; README has their number."""


def test_the_file_is_what_its_script_writes() -> None:
    script = FOLDER / "make_reward_cases.py"
    written = subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout
    assert written == (FOLDER / "reward_cases.jsonl").read_bytes()
