"""What a run will do, before it does it: a row a stage, with the model it starts from and the data it reads."""

from collections.abc import Sequence
from pathlib import Path

from grpo.chain import Link, problem_sources
from grpo.run_folder import is_complete
from grpo.sources import origin


def plan(links: Sequence[Link], folder: Path, until: int) -> list[dict[str, str]]:
    """The rows of the table. Stages after number `until` are not run."""
    return [
        {
            "stage": link.name,
            "starts from": link.start or ", ".join(link.models),
            "reads": _reads(link),
            "state": _state(folder / link.name, link.number <= until),
        }
        for link in links
    ]


def _reads(link: Link) -> str:
    """The stages whose data or reward models it reads, then its other sources, files without their folders."""
    others = [Path(origin(source)).name for source in problem_sources(link.stage) if source.stage is None]
    return ", ".join(dict.fromkeys([*link.reads, *link.judges.values(), *others]))


def _state(folder: Path, wanted: bool) -> str:
    if is_complete(folder):
        return "complete"
    if not wanted:
        return "after --until"
    return "goes on" if folder.exists() else "to do"
