"""What an evaluation came to, as tables for a person."""

from collections.abc import Collection, Mapping, Sequence

Figures = Mapping[str, float]
Lines = list[dict[str, str]]

LABELS = ("model", "template", "problems of")
MEASURED = ("accuracy", "pass@", "cons@")


def tables(
    measured: Sequence[tuple[str, str, Figures]], accuracy: str, preferences: Collection[str] = ()
) -> dict[str, Lines]:
    """Tables by what their titles add: of each source, where there are several, and, last, of all problems.

    A line for every model and template. Rewards of `preferences`, on scales of their own, come with their interval and
    the standard deviation of completions, so that a reader may count in it. What is the same template in every line is
    left out.
    """
    sources = list(dict.fromkeys(key.split("/")[1] for *_, figures in measured for key in figures if _is_part(key)))
    of_sources = [
        {"model": name, "template": template, "problems of": source, **_line(own, accuracy, preferences)}
        for name, template, figures in measured
        for source in sources
        if (own := _own(figures, source))
    ]
    of_all = [{"model": n, "template": t, **_line(figures, accuracy, preferences)} for n, t, figures in measured]
    by_source = {" by source": _aligned(of_sources)} if len(sources) > 1 else {}
    return {**by_source, "": _aligned(of_all)}


def _is_part(key: str) -> bool:
    return key.startswith("source/")


def _own(figures: Figures, source: str) -> Figures:
    prefix = f"source/{source}/"
    return {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}


def _aligned(lines: Lines) -> Lines:
    """The lines with the same columns, accuracies first: a reward may apply to some of them only."""
    found = dict.fromkeys(column for line in lines for column in line)
    columns = sorted(found, key=lambda column: 0 if column in LABELS else 1 if column.startswith(MEASURED) else 2)
    templates = {line["template"] for line in lines}
    shown = [column for column in columns if column != "template" or len(templates) > 1]
    return [{column: line.get(column, "-") for column in shown} for line in lines]


def _line(figures: Figures, accuracy: str, preferences: Collection[str]) -> dict[str, str]:
    shares = [key for key in figures if key.startswith(MEASURED) and f"{key}_low" in figures]
    line = {key: _with_interval(figures, key) for key in shares}
    line |= {"tokens": f"{figures['completion/length_mean']:.1f}", "problems": f"{figures['problems']:.0f}"}
    for key in [key for key in figures if key.startswith("reward/") and key != f"reward/{accuracy}"]:
        name = key.removeprefix("reward/")
        line[name] = f"{figures[key]:.3f}"
        if name in preferences and f"spread/{name}/low" in figures:  # an earlier version's figures are without
            low, high, sd = (figures[f"spread/{name}/{what}"] for what in ("low", "high", "std"))
            line |= {name: f"{figures[key]:.3f} [{low:.3f}, {high:.3f}]", f"{name} sd": f"{sd:.3f}"}
    return line


def _with_interval(figures: Figures, name: str) -> str:
    return f"{figures[name]:.3f} [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]"
