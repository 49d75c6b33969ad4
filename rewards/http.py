"""Asking a server for JSON, with a limit of time, again where that may help, and in one sentence where it does not."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from grpo.types import UserError

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which trying again may help."""


def bearer(variable: str | None, reward: str) -> dict[str, str]:
    """The header that shows a server the key in an environment variable. Raises UserError where it holds none."""
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"{reward}: expected a key in the environment variable {variable}, got none: set it, or key_env"
        )
    return {"Authorization": f"Bearer {key}"}


class Endpoint:
    """A server that is asked by POSTs of JSON: how long to wait for it, and how often to try."""

    def __init__(self, url: str, seconds: float, retries: int, wait: float, headers: Mapping[str, str]) -> None:
        self.url, self.seconds, self.retries, self.wait = url, seconds, retries, wait
        self.headers = {"Content-Type": "application/json", **headers}

    def post(self, content: Any) -> Any:
        """The server's answer. Raises OSError or ValueError when the last try fails too."""
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must be http or https, got {self.url}")
        body = json.dumps(content).encode()
        for attempt in range(self.retries + 1):
            try:
                request = urllib.request.Request(self.url, body, self.headers, method="POST")
                with urllib.request.urlopen(request, timeout=self.seconds) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in TRANSIENT or attempt == self.retries:
                    raise OSError(f"{self.url} answered {error.code} {error.reason}, {attempt + 1} tries") from None
            except TimeoutError:
                if attempt == self.retries:
                    raise TimeoutError(
                        f"{self.url} gave no answer within {self.seconds:g} s, {attempt + 1} tries"
                    ) from None
            except (OSError, HTTPException) as error:
                if attempt == self.retries:
                    raise OSError(f"{self.url}: {error or type(error).__name__}, {attempt + 1} tries") from None
            time.sleep(self.wait * 2**attempt)
        raise AssertionError("the last try returns or raises")
