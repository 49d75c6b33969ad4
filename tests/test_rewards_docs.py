"""The examples in the docstrings of the rewards are true."""

import doctest
import importlib
import pkgutil

import pytest

import grpo.rewards
import grpo.rewards.answers

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (grpo.rewards, grpo.rewards.answers)
    for module in pkgutil.iter_modules(package.__path__)
] + ["grpo.calibration", "grpo.scalar_model", "grpo.summary", "grpo.where"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
