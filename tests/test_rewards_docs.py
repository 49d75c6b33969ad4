"""The examples in the docstrings of the rewards are true."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import grpo.rewards
import grpo.rewards.answers

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (grpo.rewards, grpo.rewards.answers)
    for module in pkgutil.iter_modules(package.__path__)
] + ["grpo.calibration", "grpo.scalar_model", "grpo.summary", "grpo.where"]


WITH_EXAMPLES = [
    name for name in MODULES if ">>>" in Path(str(importlib.import_module(name).__file__)).read_text("utf-8")
]


def test_some_modules_have_examples() -> None:
    assert len(WITH_EXAMPLES) >= 10


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
