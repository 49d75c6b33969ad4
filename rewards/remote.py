"""A reward that a server gives, by HTTP: prompts, completions and columns go out as JSON, numbers come back."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field

from grpo.settings import Count, NonNegative, Positive

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which trying again may help."""


def remote(
    completions: Sequence[str],
    prompts: Sequence[str] | None = None,
    *,
    url: str,
    seconds: Positive = 30.0,
    retries: Annotated[int, Field(ge=0)] = 3,
    wait: NonNegative = 0.5,
    batch_size: Count = 64,
    parallel: Count = 4,
    headers: dict[str, str] | None = None,
    **columns: Sequence[Any],
) -> list[Any]:
    """What the server at `url` gives for every completion: a number, or null for "does not apply".

    It gets {"completions": [...], "prompts": [...], a list for each column} and answers {"rewards": [...]}. A request
    that fails is sent again up to `retries` times, after `wait` seconds and then twice as long each time. Completions
    whose request failed for good get the exception.
    """
    texts = {"completions": completions, "prompts": prompts, **columns}
    given = {name: list(values) for name, values in texts.items() if values is not None}
    parts = [
        {name: values[start : start + batch_size] for name, values in given.items()}
        for start in range(0, len(completions), batch_size)
    ]

    def judge(part: Mapping[str, Sequence[Any]]) -> list[Any]:
        count = len(part["completions"])
        try:
            return _judged(_Request(url, seconds, retries, wait, headers or {}), part, count)
        except (OSError, ValueError, TypeError) as error:
            return [error] * count

    with ThreadPoolExecutor(parallel) as threads:
        return [value for values in threads.map(judge, parts) for value in values]


class _Request:
    """How a server is asked."""

    def __init__(self, url: str, seconds: float, retries: int, wait: float, headers: Mapping[str, str]) -> None:
        self.url, self.seconds, self.retries, self.wait = url, seconds, retries, wait
        self.headers = {"Content-Type": "application/json", **headers}

    def send(self, body: bytes) -> Any:
        """The server's answer. Raises OSError or ValueError when the last try fails too."""
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
            except OSError as error:
                if attempt == self.retries:
                    raise OSError(f"{self.url}: {error}, {attempt + 1} tries") from None
            time.sleep(self.wait * 2**attempt)
        raise AssertionError("the last try returns or raises")


def _judged(request: _Request, part: Mapping[str, Sequence[Any]], count: int) -> list[Any]:
    if not request.url.startswith(("http://", "https://")):
        raise ValueError(f"url must be http or https, got {request.url}")
    answer = request.send(json.dumps(part).encode())
    rewards = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(rewards, list) or len(rewards) != count:
        raise ValueError(f'{request.url}: expected {{"rewards": [{count} numbers]}}, got {str(answer)[:200]}')
    return rewards
