"""The page: styles, scripts and data in one file that asks nobody for anything."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from grpo.report.samples import Packed

ASSETS = files("grpo.report") / "assets"
STYLES = (
    "uplot/uPlot.min.css", "css/base.css", "css/charts.css", "css/tables.css", "css/samples.css", "css/text.css",
    "css/print.css",
)  # fmt: skip
SCRIPTS = (
    "uplot/uPlot.iife.min.js", "js/dom.js", "js/numbers.js", "js/theme.js", "js/chart.js", "js/heatmap.js",
    "js/tables.js", "js/summary.js", "js/stages.js", "js/maths.js", "js/markup.js", "js/text.js", "js/samples_data.js",
    "js/samples_list.js", "js/samples_group.js", "js/samples.js", "js/recipe.js", "js/main.js",
)  # fmt: skip
"""In the order in which they are read: each knows those before it."""

ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end a script element or a line of JavaScript, as JSON writes them instead."""


def page(story: dict[str, Any], samples: Packed) -> str:
    """The whole page. Text of models is data in it, never markup, and the page may load and run nothing else."""
    styles = ["".join(_asset(name) for name in STYLES)]
    scripts = [_asset(name) for name in SCRIPTS]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_asset("page.html"))
    return template.render(
        title=story["title"],
        policy=_policy(styles, scripts),
        styles=[Markup(style) for style in styles],
        scripts=[Markup(script) for script in scripts],
        story=Markup(embedded(story | {"samples": {"count": samples.count, "total": samples.total}})),
        samples=samples.text,
    )


def embedded(value: Any) -> str:
    """JSON that can stand in a script element.

    >>> embedded("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A content security policy that knows these very styles and scripts, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hashes(styles)}; script-src {_hashes(scripts)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Sequence[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
