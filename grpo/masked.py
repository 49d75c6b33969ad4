"""Settings as others may see them: without the keys and passwords that stand in them."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"
_SECRET = re.compile(r"headers|authorization|secret|password|passwd|api_?key|access_?token", re.IGNORECASE)
_SETTING = re.compile(r"((?:--set=)?[\w.]+)=")
_USER_IN_URL = re.compile(r"(https?://)[^/@\s]+@")


def masked(value: Any) -> Any:
    """The same with the values of secret keys hidden, also in `KEY=VALUE`, and without names and passwords in URLs.

    >>> masked({"url": "https://me:pw@host/v1", "headers": {"Authorization": "Bearer x"}})
    {'url': 'https://(hidden)@host/v1', 'headers': '(hidden)'}
    """
    if isinstance(value, Mapping):
        return {key: HIDDEN if part and _SECRET.search(str(key)) else masked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if not isinstance(value, str):
        return value
    setting = _SETTING.match(value)
    shown = f"{setting[1]}={HIDDEN}" if setting and _SECRET.search(value) else value
    return _USER_IN_URL.sub(rf"\1{HIDDEN}@", shown)
