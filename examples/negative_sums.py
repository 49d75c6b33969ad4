"""Problems of your own from a Python function: sums that go below zero on the way, such as 3 - 8 + 4.

A recipe names it `negative_sums.py:negative_sums`. Questions read as those of reasoning-gym's chain_sum do, and a
question's words decide whether it is held out: what is there, is here.
"""

from collections.abc import Iterator


def negative_sums(below: int = 10) -> Iterator[dict[str, str]]:
    """Yield `a - b` and `a - b + c` or `a - b - c` with a < b, of numbers `below` one: 45 + 900 below 10."""
    for a in range(below):
        for b in range(a + 1, below):
            yield _problem(f"{a} - {b}", a - b)
            for c in range(below):
                yield _problem(f"{a} - {b} + {c}", a - b + c)
                yield _problem(f"{a} - {b} - {c}", a - b - c)


def _problem(terms: str, total: int) -> dict[str, str]:
    return {"prompt": f"State the final answer to the following arithmetic problem: {terms} =", "answer": str(total)}
