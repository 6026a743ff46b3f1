"""Connections: no more than a number of them, none that says nothing for long, none that lives for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from aifactory_agent.openai.errors import RETRY_AFTER_SECONDS, unavailable
from aifactory_agent.openai.limits import Limits


class Listener(web.Server):
    """aiohttp's low-level server, which counts.

    Args:
        handler: answers a request; cancelled when its client goes away.
        limits: for connections.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: Limits,
    ) -> None:
        super().__init__(handler, handler_cancellation=True, access_log=None, keepalive_timeout=limits.idle_seconds)
        self._limit = limits.connections
        self._since: dict[object, float] = {}

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Take a connection, or close it with an answer."""
        super().connection_made(handler, transport)
        if len(self._since) >= self._limit:
            transport.write(_refusal(self._limit))
            transport.close()
            return
        self._since[handler] = time.monotonic()

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """Forget it."""
        super().connection_lost(handler, exc)
        self._since.pop(handler, None)

    def age(self, handler: object) -> float:
        """Seconds since a connection was made."""
        return time.monotonic() - self._since.get(handler, time.monotonic())


def _refusal(limit: int) -> bytes:
    error = unavailable(f"this pod has {limit} connections already; ask again in a moment", "overloaded")
    body = json.dumps(error.as_json()).encode()
    lines = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Retry-After: {RETRY_AFTER_SECONDS}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body
