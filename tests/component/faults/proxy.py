"""An API server's faults, made to measure: an HTTP proxy between one operator process and the real API server.

It speaks plain HTTP to the operator and TLS, as administrator, to the server; it changes nothing but what a fault says.
What it has seen is kept: which write came when is what the tests of leadership are about. It runs in a thread of its
own, because the tests that steer it are ordinary functions.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from aifactory.kube.auth import SessionProvider, from_kubeconfig

T = TypeVar("T")

HOP_BY_HOP = {"connection", "content-encoding", "content-length", "host", "keep-alive", "transfer-encoding", "te"}
WRITES = {"POST", "PUT", "PATCH", "DELETE"}
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: proxy, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: none, user: {{}}}}]
contexts: [{{name: proxy, context: {{cluster: proxy, user: none}}}}]
current-context: proxy
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at the moment, for every request."""

    status: int = 0
    """Answer this instead of asking the server."""
    retry_after: int | None = None
    delay: float = 0.0
    """Seconds that every request is late."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came through."""

    at: float
    """By time.monotonic()."""
    method: str
    path: str
    watch: bool
    status: int

    @property
    def writes(self) -> bool:
        """It changes something other than the lease or a review."""
        return self.method in WRITES and not self.path.endswith("reviews") and "/leases" not in self.path


@dataclass(eq=False, slots=True)
class _Watch:
    """A watch that is open."""

    request: web.Request
    silent: bool = False


class FaultProxy:
    """One proxy. Attributes may be set from any thread."""

    def __init__(self, upstream: Path, directory: Path) -> None:
        self.kubeconfig = directory / "proxy.kubeconfig"
        self.fault: Fault | None = None
        self.seen: list[Seen] = []
        self._upstream = upstream
        self._watches: set[_Watch] = set()
        self._expire = ""
        self._expired: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._start())

    def close(self) -> None:
        """End it; every connection is closed."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    # --- Faults ---

    def cut(self) -> None:
        """Every watch loses its connection."""
        self._do(self._cut())

    def stall(self) -> int:
        """The watches that are open now say nothing from now on and do not end; returns how many."""
        open_now = list(self._watches)
        for watch in open_now:
            watch.silent = True
        return len(open_now)

    def expire(self, how: str) -> None:
        """Cut every watch and say 410 to the next one of each resource, as an 'event' or as the 'answer' itself."""
        self._expired.clear()
        self._expire = how
        self.cut()

    # --- What was seen ---

    @property
    def writes(self) -> list[Seen]:
        """Requests that changed something, the lease aside."""
        return [seen for seen in self.seen if seen.writes and seen.status < 300]

    def lists(self) -> int:
        """Lists that were answered."""
        return sum(1 for seen in self.seen if seen.method == "GET" and not seen.watch and seen.status == 200)

    # --- Inside ---

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _start(self) -> None:
        self._provider = SessionProvider(await from_kubeconfig(str(self._upstream)), user_agent="fault-proxy")
        self._session: ClientSession = self._provider.session()
        application = web.Application(client_max_size=64 * 1024**2)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.kubeconfig.write_text(KUBECONFIG.format(port=self._runner.addresses[0][1]))

    async def _stop(self) -> None:
        await self._cut()
        await self._runner.cleanup()
        await self._session.close()
        await self._provider.close()

    async def _cut(self) -> None:
        for watch in list(self._watches):
            if watch.request.transport is not None:
                watch.request.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at, watch = time.monotonic(), "watch" in request.query
        fault = self.fault
        if fault is not None and fault.delay:
            await asyncio.sleep(fault.delay)
        try:
            if fault is not None and fault.status:
                response: web.StreamResponse = _refusal(fault)
            elif watch and self._expire and request.path not in self._expired:
                self._expired.add(request.path)
                response = _expired(self._expire)
            else:
                response = await self._forward(request, watch, at)
        except (ClientError, OSError) as error:
            response = web.Response(status=502, text=f"bad gateway: {error}")
        if not watch:
            self.seen.append(Seen(at, request.method, request.path, watch, response.status))
        return response

    async def _forward(self, request: web.Request, watch: bool, at: float) -> web.StreamResponse:
        server = self._provider.connection.server
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = await request.read()
        timeout = ClientTimeout(total=None if watch else 60)
        async with self._session.request(
            request.method, f"{server}{request.rel_url}", headers=headers, data=body or None, timeout=timeout
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if not watch:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            self.seen.append(Seen(at, request.method, request.path, watch, answer.status))
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            stream = _Watch(request)
            self._watches.add(stream)
            try:
                async for chunk in answer.content.iter_any():
                    if stream.silent:
                        await asyncio.Future()  # until the client has had enough
                    await response.write(chunk)
            except ClientError:
                # The server's connection broke: so does ours, or the operator would take the stream for a quiet one.
                if request.transport is not None:
                    request.transport.abort()
            finally:
                self._watches.discard(stream)
            return response


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def _refusal(fault: Fault) -> web.Response:
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}.get(fault.status, "Unknown")
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(_status(fault.status, reason, "made by the test"), status=fault.status, headers=headers)


def _expired(how: str) -> web.Response:
    status = _status(410, "Expired", "too old resource version")
    if how == "answer":
        return web.json_response(status, status=410)
    return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n", content_type="application/json")
