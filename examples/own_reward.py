"""A reward of your own. A recipe beside this file names it `own_reward.py:thought_ends_on_answer`."""


def thought_ends_on_answer(completion: str, answer: str) -> float | None:
    """1 when the reasoning comes to the right answer, 0 when to another, None when there is no reasoning."""
    thought, closing_tag, _ = completion.partition("</think>")
    arrived_at = thought.split()[-1:]
    return float(arrived_at == [answer]) if closing_tag else None
