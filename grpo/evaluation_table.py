"""What an evaluation came to, as a table for a person."""

from collections.abc import Iterator, Mapping, Sequence

Figures = Mapping[str, float]


def table(measured: Sequence[tuple[str, str, Figures]], accuracy: str) -> list[dict[str, str]]:
    """A line for every model, template and source; columns that say the same in every line are left out."""
    lines = [line for name, template, figures in measured for line in _lines(name, template, figures, accuracy)]
    columns = dict.fromkeys(column for line in lines for column in line)  # a reward may apply to some models only
    said = {column: {line.get(column, "-") for line in lines} for column in ("template", "problems of")}
    shown = [column for column in columns if column not in said or len(said[column]) > 1]
    return [{column: line.get(column, "-") for column in shown} for line in lines]


def _lines(name: str, template: str, figures: Figures, accuracy: str) -> Iterator[dict[str, str]]:
    parts = [key.split("/") for key in figures if key.startswith("source/")]
    sources = list(dict.fromkeys(part[1] for part in parts))
    yield {"model": name, "template": template, "problems of": "all", **_line(figures, accuracy)}
    for source in sources if len(sources) > 1 else ():
        prefix = f"source/{source}/"
        own = {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}
        yield {"model": name, "template": template, "problems of": source, **_line(own, accuracy)}


def _line(figures: Figures, accuracy: str) -> dict[str, str]:
    measured = [key for key in figures if key == "accuracy" or key.startswith(("pass@", "cons@"))]
    line = {key: _with_interval(figures, key) for key in measured if f"{key}_low" in figures}
    line |= {"tokens": f"{figures['completion/length_mean']:.1f}", "problems": f"{figures['problems']:.0f}"}
    others = [key for key in figures if key.startswith("reward/") and key != f"reward/{accuracy}"]
    return line | {key.removeprefix("reward/"): f"{figures[key]:.3f}" for key in others}


def _with_interval(figures: Figures, name: str) -> str:
    return f"{figures[name]:.3f} [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]"
