"""A reward of your own. In a recipe: `rewards: [{name: examples/reward_checks.py:checks_its_work, weight: 0.2}]`."""


def checks_its_work(completion: str, answer: str) -> float | None:
    """1 when the thought tests its result, -1 when it gives the answer away untested, None without a thought."""
    thought = completion.partition("<think>")[2].partition("</think>")[0]
    return None if not thought else 1.0 if "check" in thought.lower() else -1.0 if str(answer) in thought else 0.0
