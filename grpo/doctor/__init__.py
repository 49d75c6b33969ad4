"""The doctor: sicknesses of a run by name, each with its evidence and the line of the recipe to change.

A finding is a pure function of a stage's figures so far and its resolved settings. `registry.py` lists them,
`rounds.py` asks for them after every step, and `examine` does the same with what a run has written down.
"""

from grpo.doctor.finding import Finding
from grpo.doctor.reader import examine

__all__ = ["Finding", "examine"]
