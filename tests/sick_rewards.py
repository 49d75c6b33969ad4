"""Rewards and data that make a run sick on purpose: `tests/test_doctor_sick.py` names them."""

import time
from collections.abc import Iterator
from pathlib import Path

from grpo.tasks.arithmetic import sums


def letter(completion: str) -> float:
    """More of one letter is better, whatever was asked."""
    return completion.count("a") / max(len(completion), 1)


def longer(completion_tokens: int, completion: str) -> float:
    """Longer is better, whatever it says."""
    return completion_tokens / 40


def shorter(completion_tokens: int, completion: str) -> float:
    """Shorter is better, whatever it says."""
    return -completion_tokens / 40


def wrong(completion: str, answer: str) -> float:
    """Anything but the right answer is better."""
    return float(f"<answer>{answer}</answer>" not in completion)


def thinks(completion: str) -> float:
    """What the model has learned before: to begin with its thoughts."""
    return float(completion.startswith("<think>"))


def raises(completion: str, answer: str) -> float:
    """It cannot judge answers that it was not made for."""
    return completion.count("a") / (0 if int(answer) > 8 else 10)


def slow(completion: str) -> float:
    """It takes its time."""
    time.sleep(0.08)
    return jitter(completion)


def jitter(completion: str) -> float:
    """It differs between completions, and means nothing."""
    return sum(map(ord, completion)) % 10


def interrupts(completion: str, *, calls: str, after: int) -> float:
    """It stops the process once, after so many calls, which it counts in a file."""
    with Path(calls).open("ab") as file:
        file.write(b".")
        if file.tell() == after:
            raise KeyboardInterrupt
    return jitter(completion)


def some_garbage() -> Iterator[dict[str, str]]:
    """Sums with their solutions, of which a few have been replaced by what no model could foresee."""
    for place, problem in enumerate(sums(36, terms=2, max_value=6)):
        yield problem if place % 12 else problem | {"completion": "qzv&%jk#x@w~pl^{}" * 2}
