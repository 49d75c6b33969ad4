"""A reward that a server gives, by HTTP: prompts, completions and columns go out as JSON, numbers come back."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field

from grpo.rewards.http import Endpoint, bearer
from grpo.settings import Count, NonNegative, Positive


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
    key_env: str | None = None,
    **columns: Sequence[Any],
) -> list[Any]:
    """What the server at `url` gives for every completion: a number, or null for "does not apply".

    It gets {"completions": [...], "prompts": [...], a list for each column} and answers {"rewards": [...]}. A request
    that fails is sent again up to `retries` times, after `wait` seconds and then twice as long each time. Completions
    whose request failed for good get the exception. `key_env` is the environment variable that holds the server's key.
    """
    sent = {**(headers or {}), **bearer(key_env, "remote")}
    texts = {"completions": completions, "prompts": prompts, **columns}
    given = {name: list(values) for name, values in texts.items() if values is not None}
    parts = [
        {name: values[start : start + batch_size] for name, values in given.items()}
        for start in range(0, len(completions), batch_size)
    ]

    def judge(part: Mapping[str, Sequence[Any]]) -> list[Any]:
        count = len(part["completions"])
        try:
            return _judged(Endpoint(url, seconds, retries, wait, sent), part, count)
        except (OSError, ValueError, TypeError) as error:
            return [error] * count

    with ThreadPoolExecutor(parallel) as threads:
        return [value for values in threads.map(judge, parts) for value in values]


def _judged(endpoint: Endpoint, part: Mapping[str, Sequence[Any]], count: int) -> list[Any]:
    answer = endpoint.post(part)
    rewards = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(rewards, list) or len(rewards) != count:
        raise ValueError(f'{endpoint.url}: expected {{"rewards": [{count} numbers]}}, got {str(answer)[:200]}')
    return rewards
