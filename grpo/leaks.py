"""Whether a question that is evaluated as held out was trained on by an earlier stage."""

from collections.abc import Iterator, Sequence

from grpo.chain import Link, find
from grpo.data import split
from grpo.evaluate_stage import EvaluateStage
from grpo.grpo_stage import GrpoStage
from grpo.problem_settings import ProblemSettings
from grpo.rejection_stage import RejectionStage
from grpo.sft_stage import SftStage
from grpo.sources import read_problems
from grpo.types import UserError

Parts = tuple[frozenset[str], frozenset[str]]
"""The questions of a source: those to train on, and those held out."""


def check_leaks(links: Sequence[Link], seed: int) -> None:
    """What a stage evaluates as held out, no stage that its models come from trains on.

    A question's hash alone says whether it is held out, so that can only happen where the earlier stage holds out a
    smaller share: data is read only then. Of data that a stage leaves, that stage's `decontaminate` takes care.

    Raises:
        UserError: some questions are in both parts.
    """
    read: dict[int, Parts] = {}

    def parts(source: ProblemSettings) -> Parts:
        if id(source) not in read:
            read[id(source)] = _parts(source, seed)
        return read[id(source)]

    for link in links:
        for earlier in _ancestors(link, links):
            learned = list(_learned(earlier, links))
            for held in _evaluated(link):
                if any(source.held_out < held.held_out for source in learned):
                    # Of the sources of one stage, one may not train on what another holds out.
                    trained = frozenset().union(*(parts(source)[0] for source in learned))
                    kept_out = frozenset().union(*(parts(source)[1] for source in learned))
                    _refuse(link, held, earlier, parts(held)[1] & (trained - kept_out))


def _refuse(link: Link, held: ProblemSettings, earlier: Link, both: frozenset[str]) -> None:
    if both:
        raise UserError(
            f"stages[{link.number - 1}]: holds out {len(both)} questions that {earlier.name} has in its training part, "
            f"as {min(both)[:60]!r}: say held_out: {held.held_out} there, as here"
        )


def _parts(source: ProblemSettings, seed: int) -> Parts:
    train, held_out = split(read_problems(source, seed), source.held_out)
    return frozenset(problem.prompt for problem in train), frozenset(problem.prompt for problem in held_out)


def _evaluated(link: Link) -> Iterator[ProblemSettings]:
    """The sources of which a stage evaluates what is held out."""
    stage = link.stage
    if isinstance(stage, EvaluateStage):
        evaluates = stage.part == "held_out"
    else:
        evaluates = isinstance(stage, GrpoStage) and stage.evaluation is not None
    if evaluates:
        yield from (source for source in stage.problems.each if source.stage is None)


def _learned(link: Link, links: Sequence[Link]) -> Iterator[ProblemSettings]:
    """The sources of a stage; in place of data that a stage leaves as it is, what that is made of."""
    for source in link.stage.problems.each:
        if source.stage is None:
            yield source
            continue
        made = find(links, source.stage, link.name).stage
        if isinstance(made, RejectionStage) and made.decontaminate is None:
            yield from (one for one in made.problems.each if one.stage is None)


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
