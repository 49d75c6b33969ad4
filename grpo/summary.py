"""What of a response a judge gets to see."""

from grpo.preference_settings import Part

OPEN, CLOSE = "<think>", "</think>"


def summary_of(text: str) -> str:
    """What comes after the chain of thought, without the space around it.

    A text without tags is all summary; one whose thought never ends has none.

    >>> summary_of("<think>2 and 2</think> It is 4."), summary_of("It is 4."), summary_of("<think>2 and")
    ('It is 4.', 'It is 4.', '')
    """
    if CLOSE in text:
        return text.rpartition(CLOSE)[2].strip()
    return "" if OPEN in text else text.strip()


def judged_text(text: str, part: Part) -> str:
    """The part of a response that is judged."""
    return summary_of(text) if part == "summary" else text
