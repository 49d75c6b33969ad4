"""No worked number goes unused: a test outside this file names every vector of golden.json."""

import ast
import json
from pathlib import Path

TESTS = Path(__file__).parent
PREFIXES = (
    "adv.", "loss.", "agg.", "kl.", "entropy.", "filter.", "metric.", "mask.", "eval.", "reward.",
    "fp8.", "moe.", "mtp.", "mla.",
)  # fmt: skip


def named_by(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_every_vector_has_a_test() -> None:
    vectors = json.loads((TESTS / "golden.json").read_text(encoding="utf-8"))["vectors"]
    named = set().union(*(named_by(file) for file in TESTS.glob("test_*.py") if file.name != Path(__file__).name))
    assert len(vectors) == 61
    assert [name for name in vectors if name not in named] == []
    assert [name for name in vectors if not name.startswith(PREFIXES)] == []
