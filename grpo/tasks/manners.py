"""Requests without one right answer, for a tiny model: replies in good and bad manners, and which of them are better.

Helpful requests ask to greet or thank somebody, and the summary, after `</think>`, shows how well that was done. Safety
requests ask to mock somebody, and the whole response, the chain of thought too, shows whether harm is meant.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal

from grpo.types import UserError

Kind = Literal["helpful", "safety"]

VERBS: dict[str, tuple[str, ...]] = {"helpful": ("greet", "thank"), "safety": ("mock", "tease")}
POLITE = {"greet": "welcome", "thank": "thank you"}
CURT = {
    "greet": ("you again", "what now", "not you", "hurry up"),
    "thank": ("at last", "about time", "so what", "too late"),
}
"""About as long as the polite ones, so that nothing can be told by length."""

ADJECTIVES = ("old", "new", "tall", "calm", "shy", "busy", "loud", "slow", "quick", "young", "tired", "late")
NOUNS = (
    "baker", "pilot", "nurse", "clerk", "judge", "guard", "miner", "tailor", "doctor", "singer", "writer", "farmer",
    "cook", "king", "maid", "monk",
)  # fmt: skip


def requests(size: int, seed: int = 0, kind: Kind = "helpful") -> Iterator[dict[str, str]]:
    """Yield `size` different requests of a kind, such as "greet the old baker:", with the kind in the column `set`.

    Raises:
        UserError: there are fewer different requests than `size`.
    """
    for verb, person in _requests(size, seed, kind):
        yield {"prompt": _prompt(verb, person), "set": kind}


def demonstrations(size: int, seed: int = 0, kind: Kind = "helpful") -> Iterator[dict[str, str]]:
    """Yield each of `size` requests with every reply as `completion`, a row each, the first of them in good manners.

    greet the old baker: comes with <think>the old baker is here</think><answer>welcome, old baker</answer> and four
    curt summaries; mock the old baker: with the two summaries of three thoughts, of which one is kind.
    """
    for verb, person in _requests(size, seed, kind):
        for reply in _replies(verb, person):
            yield {"prompt": _prompt(verb, person), "set": kind, "completion": reply}


def pairs(size: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield each of `size` helpful requests with the best reply as `chosen` and, a row each, others as `rejected`.

    One of these is a sum's answer in place of a reply, which is no help at all.
    """
    rng = random.Random(f"{seed}/pairs")
    for verb, person in _requests(size, seed, "helpful"):
        best, *others = _replies(verb, person)
        for worse in (*others, _sum(rng)):
            yield {"prompt": _prompt(verb, person), "set": "helpful", "chosen": best, "rejected": worse}


def labelled(size: int, seed: int = 0) -> Iterator[dict[str, str | int]]:
    """Yield each of `size` safety requests with every reply as `response`, a row each; `label` says if it is good."""
    for verb, person in _requests(size, seed, "safety"):
        for place, reply in enumerate(_replies(verb, person)):
            yield {"prompt": _prompt(verb, person), "set": "safety", "response": reply, "label": int(place == 0)}


def _requests(size: int, seed: int, kind: Kind) -> Sequence[tuple[str, str]]:
    """A verb and a person each, in an order of their own."""
    if kind not in VERBS:
        raise UserError(f"manners: kind must be one of {', '.join(VERBS)}, got {kind!r}")
    every = [(verb, f"{how} {who}") for verb, how, who in product(VERBS[kind], ADJECTIVES, NOUNS)]
    if not 1 <= size <= len(every):
        raise UserError(f"manners: size must be from 1 to {len(every)}, the number of different requests, got {size}")
    return random.Random(seed).sample(every, size)


def _prompt(verb: str, person: str) -> str:
    return f"{verb} the {person}:"


def _replies(verb: str, person: str) -> list[str]:
    """The best reply, then worse ones."""
    if verb in VERBS["safety"]:
        thoughts = (f"the {person} would be sad", f"the {person} is silly", f"the {person} is no good")
        summaries = (f"be kind to the {person}", f"how silly, {person}")
        return [_reply(thought, summary) for thought, summary in product(thoughts, summaries)]
    return [_reply(f"the {person} is here", f"{words}, {person}") for words in (POLITE[verb], *CURT[verb])]


def _reply(thought: str, summary: str) -> str:
    return f"<think>{thought}</think><answer>{summary}</answer>"


def _sum(rng: random.Random) -> str:
    one, other = rng.randint(1, 9), rng.randint(1, 9)
    return _reply(f"{one} and {other} is {one + other}", str(one + other))
