"""What is served over HTTP: /healthz, /readyz and /metrics on one port, what pods reach on another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from aifactory.app.options import Options
from aifactory.engine.domain import Route
from aifactory.engine.objectmetrics import ObjectMetrics
from aifactory.kube import metrics
from aifactory.kube.clock import Clock

TICK_SECONDS = 0.1
MAX_BODY_BYTES = 64 * 1024
"""Longest body that a pod may send."""
STUCK_SECONDS = 30.0
"""An event loop that has not turned for this long will not turn again."""


class Health:
    """Whether the process works, by its own account."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ticked = clock.monotonic()
        self._ready = asyncio.Event()
        self.stale: Callable[[], str] = lambda: ""
        """Names the watches that have told nothing for too long; empty when there are none."""
        self.waits_for: Callable[[], str] = lambda: ""
        """Why this release does not act: another one does. Empty when it does, or could."""

    @property
    def ready(self) -> bool:
        """Every store is complete: this replica leads, or could at once, unless it `waits_for` another release."""
        return self._ready.is_set()

    @ready.setter
    def ready(self, value: bool) -> None:
        if value:
            self._ready.set()
        else:
            self._ready.clear()

    def trouble(self) -> str:
        """Why this replica is not ready; empty when it is. A view that nobody renews is none to act on."""
        return self.waits_for() or self.stale() if self.ready else "stores are filling"

    async def wait_ready(self) -> None:
        """Wait until every store is complete."""
        await self._ready.wait()

    def alive(self) -> bool:
        """The event loop turns."""
        return self._clock.monotonic() - self._ticked < STUCK_SECONDS

    async def run(self) -> None:
        """Measure for ever how late the event loop is."""
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self._ticked = self._clock.monotonic()
            metrics.LOOP_LAG.observe(max(0.0, self._ticked - before - TICK_SECONDS))


class Servers:
    """Web servers that run."""

    def __init__(self, runners: list[web.AppRunner]) -> None:
        self._runners = runners

    async def cleanup(self) -> None:
        """Stop them."""
        for runner in self._runners:
            await runner.cleanup()


async def serve(options: Options, health: Health, routes: Iterable[Route], objects: ObjectMetrics) -> Servers:
    """Start both servers; `routes` are what pods can reach, `objects` is told beside the process's own metrics.

    Raises:
        OSError: a port is taken.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if health.alive() else web.Response(status=503, text="event loop is stuck\n")

    async def readyz(_: web.Request) -> web.Response:
        trouble = health.trouble()
        return web.Response(status=503, text=f"{trouble}\n") if trouble else web.Response(text="ok\n")

    registry = CollectorRegistry()
    registry.register(REGISTRY)
    registry.register(objects)

    async def metrics_page(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    own = web.Application()
    own.router.add_get("/healthz", healthz)
    own.router.add_get("/readyz", readyz)
    own.router.add_get("/metrics", metrics_page)
    for_pods = web.Application(client_max_size=MAX_BODY_BYTES)
    for route in routes:
        for_pods.router.add_route(route.method, route.path, route.handler)
    runners = []
    for application, port in ((own, options.http_port), (for_pods, options.progress_port)):
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=port).start()
        runners.append(runner)
    return Servers(runners)
