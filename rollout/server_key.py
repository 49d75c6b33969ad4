"""The lock on a server's every door. vLLM's own key leaves open those through which weights are changed."""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

KEY_VARIABLE = "GRPO_SERVER_KEY"

OPEN_PATHS = frozenset({"/health"})
"""What anyone may ask: whether the server is up."""


class RequireKey:
    """ASGI middleware: a request needs the header `Authorization: Bearer KEY`, with the key of the environment."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app
        self._expected = f"Bearer {os.environ[KEY_VARIABLE]}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 401 to whoever lacks the key, before anything is read."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS or self._holds_key(scope):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _holds_key(self, scope: Any) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)
