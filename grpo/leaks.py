"""Whether a question that is evaluated as held out was trained on by an earlier stage."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from grpo.chain import Link
from grpo.data import split
from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.problem_settings import ProblemSettings
from grpo.sft_stage import SftStage
from grpo.sources import read_problems
from grpo.types import UserError


class _Parts(NamedTuple):
    """Questions by the part that they fall in."""

    trained: set[str]
    held_out: set[str]


def check_leaks(links: Sequence[Link], seed: int) -> None:
    """What a stage evaluates as held out, no stage that its models come from trains on.

    A question's hash alone says whether it is held out, so that can only happen where the earlier stage holds out a
    smaller share. Data is read only then; data that a stage leaves is kept clean by that stage's `decontaminate`.

    Raises:
        UserError: some questions were trained on.
    """
    for link in links:
        for held in _evaluated(link):
            for earlier in _ancestors(link, links):
                learned = [one for one in earlier.stage.problems.each if one.stage is None]
                if any(one.held_out < held.held_out for one in learned):
                    _check(link, held, earlier, _parts(learned, seed), seed)


def _check(link: Link, held: ProblemSettings, earlier: Link, learned: _Parts, seed: int) -> None:
    both = _parts([held], seed).held_out & (learned.trained - learned.held_out)
    if both:
        raise UserError(
            f"stages[{link.number - 1}]: evaluates {len(both)} questions as held out that {earlier.name} trains on, as "
            f"{min(both)[:60]!r}: say held_out: {held.held_out} there, as here"
        )


def _parts(sources: Sequence[ProblemSettings], seed: int) -> _Parts:
    """The questions of sources; of two sources one may train on what the other holds out."""
    parts = [split(read_problems(source, seed), source.held_out) for source in sources]
    trained, held_out = ({problem.prompt for part in parts for problem in part[i]} for i in (0, 1))
    return _Parts(trained, held_out)


def _evaluated(link: Link) -> Iterator[ProblemSettings]:
    """The sources of which a stage evaluates what is held out."""
    stage = link.stage
    evaluates = stage.part == "held_out" if isinstance(stage, EvaluateStage) else isinstance(stage, GrpoStage)
    if evaluates and not (isinstance(stage, GrpoStage) and stage.evaluation is None):
        yield from (source for source in stage.problems.each if source.stage is None)


def _ancestors(link: Link, links: Sequence[Link]) -> list[Link]:
    """The stages that trained what a stage starts from or evaluates, and what those started from."""
    by_name = {one.name: one for one in links}
    names, found = [link.start, *link.models], []
    while names:
        earlier = by_name.get(names.pop() or "")
        if earlier is not None and earlier not in found:
            found.append(earlier)
            names.append(earlier.start)
    return [one for one in found if isinstance(one.stage, GrpoStage | SftStage)]
