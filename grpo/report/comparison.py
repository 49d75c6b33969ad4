"""Which runs are the same recipe with another seed, and which are to be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from grpo.report.run import Run, Stage

NOT_THE_RECIPE = ("name", "seed", "output", "trackers")
"""Keys in which runs of the same experiment differ."""


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, by seed. `numbers` are their places among all runs of the report."""

    label: str
    runs: Sequence[Run]
    numbers: Sequence[int]

    def stages(self, key: str) -> list[Stage]:
        """The stage of that key of every run that has it."""
        return [stage for run in self.runs for name, stage in keyed(run).items() if name == key]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The runs by recipe, in the order in which they were named."""
    by_recipe: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        same = {key: value for key, value in run.recipe.items() if key not in NOT_THE_RECIPE}
        by_recipe.setdefault(repr(same), []).append(place)
    labels = run_labels(runs)
    names = [[labels[place] for place in places] for places in by_recipe.values()]
    short = [_label(own) for own in names]
    unique = [", ".join(own) if short.count(label) > 1 else label for label, own in zip(short, names, strict=True)]
    members = zip(unique, by_recipe.values(), strict=True)
    return [Group(label, [runs[place] for place in places], places) for label, places in members]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A name for every run that no other has: its folder's, with as many folders above it as it takes."""
    parts = [run.folder.resolve().parts for run in runs]
    labels = [run.name for run in runs]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        labels = [
            "/".join(own[-depth:]) if labels.count(label) > 1 else label
            for own, label in zip(parts, labels, strict=True)
        ]
    return labels


def stage_keys(runs: Sequence[Run]) -> list[str]:
    """The keys of all stages, in the order of the runs' recipes."""
    return list(dict.fromkeys(key for run in runs for key in keyed(run)))


def keyed(run: Run) -> dict[str, Stage]:
    """The stages of a run by key; the second of a key has its number as well."""
    found: dict[str, Stage] = {}
    for stage in run.stages:
        found[stage.key if stage.key not in found else stage.name] = stage
    return found


def _label(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in same).rstrip("-_. ") or names[0]
    return f"{common} ({len(names)} seeds)"


def recipes(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """The recipes to lay side by side; where the runs have other stages, these are found by key and not by number."""
    if len({tuple(stage.name for stage in run.stages) for run in runs}) == 1:
        return [run.recipe for run in runs]
    by_key = [{key: stage.settings for key, stage in keyed(run).items()} for run in runs]
    return [{**run.recipe, "stages": stages} for run, stages in zip(runs, by_key, strict=True)]


# --- settings side by side --------------------------------------------------------------------------------------------


def side_by_side(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every key of several nested settings with its value in each, None where it is not, and whether they differ."""
    flat = [dict(flattened(one)) for one in settings]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [{"key": key, "values": [one.get(key) for one in flat]} for key in keys]
    return [row | {"differs": len(set(row["values"])) > 1} for row in rows]


def flattened(value: Any, name: str = "") -> list[tuple[str, str]]:
    """`stages[1].lr` and its value as YAML has it, for every leaf.

    >>> flattened({"stages": [{"lr": 0.001, "stop": []}]})
    [('stages[0].lr', '0.001'), ('stages[0].stop', '[]')]
    """
    if isinstance(value, Mapping) and value:
        return [
            leaf for key, entry in value.items() for leaf in flattened(entry, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        return [leaf for place, entry in enumerate(value) for leaf in flattened(entry, f"{name}[{place}]")]
    return [(name, _written(value))]


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return "null" if value is None else "{}" if value == {} else str(value)
