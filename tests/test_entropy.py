import json
from pathlib import Path

import pytest
import torch

from grpo.losses.entropy import adaptive_coefficient, covariance

VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]


def test_adaptive_coefficient() -> None:
    vector = VECTORS["entropy.adaptive_coef"]
    coefficient, coefficients, in_force = vector["inputs"]["alpha0"], [], []
    for entropy in vector["inputs"]["H_seq"]:
        coefficient, active = adaptive_coefficient(coefficient, entropy, **vector["options"])
        coefficients.append(coefficient)
        in_force.append(active)
    assert coefficients == pytest.approx(vector["expected"]["alpha_after_each"], abs=1e-9)
    assert in_force == vector["expected"]["bonus_active"]


def test_the_coefficient_never_punishes_entropy() -> None:
    assert adaptive_coefficient(0.001, entropy=2.0, target=1.0, delta=0.01) == (0.0, False)


def test_covariance() -> None:
    vector = VECTORS["entropy.cov_tokens"]
    advantages_N = torch.tensor(vector["inputs"]["advantages_flat"], dtype=torch.float64)
    logprobs_N = torch.tensor(vector["inputs"]["logprobs_flat"], dtype=torch.float64)
    covariance_N = covariance(advantages_N, logprobs_N)
    assert covariance_N.tolist() == pytest.approx(vector["expected"]["cov"], abs=1e-9)
    assert covariance_N.argmax() == vector["expected"]["argmax"]
