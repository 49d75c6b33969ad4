"""Which problems something is meant for, by their columns: `where: {set: helpful}`, or `{set: [helpful, safety]}`."""

from collections.abc import Mapping
from typing import Any


def matches(where: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether every named column has the value, or one of the values. Nothing named matches everything.

    >>> matches({"set": ["a", "b"], "level": 1}, {"set": "b", "level": 1}), matches({"set": "a"}, {})
    (True, False)
    """
    return all(
        name in columns and any(_same(columns[name], one) for one in (wanted if isinstance(wanted, list) else [wanted]))
        for name, wanted in where.items()
    )


def _same(value: Any, wanted: Any) -> bool:
    """1 is not true, and "1" is not 1."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
