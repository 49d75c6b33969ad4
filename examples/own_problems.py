"""Problems of your own: a function that yields one mapping a problem, by whatever code makes or finds them."""

import random
from collections.abc import Iterator
from itertools import product


def remainders(size: int, largest: int = 99, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield `17 mod 5 =` with its answer for the rewards and a demonstration to fine-tune on.

    Only `prompt` must be there; every other column is for the rewards, templates and stages that ask for it.
    """
    pairs = list(product(range(10, largest + 1), range(2, 10)))
    for number, divisor in random.Random(seed).sample(pairs, size):
        quotient, rest = divmod(number, divisor)
        yield {
            "prompt": f"{number} mod {divisor} =",
            "answer": str(rest),
            "completion": f"<think>{number} - {quotient} * {divisor} = {rest}</think><answer>{rest}</answer>",
        }
