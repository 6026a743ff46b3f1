"""Whether this process is ready and alive, and how well its event loop keeps up, over HTTP.

`/readyz` says whether the caches are complete. `/healthz` says whether the process is stuck: it is not about the API
server, for a restart would not bring that back. A stuck event loop does not answer at all, which is the clearest sign.
Both name what is wrong. `/metrics` is Prometheus' text format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from aifactory.kube import metrics
from aifactory.kube.informer import Informer

LAG_INTERVAL: Final = 0.1

Check = Callable[[], str]
"""Returns "" when all is well, else what is wrong in one line."""


def application(*, ready: Iterable[Check], alive: Iterable[Check]) -> web.Application:
    """The web application with `/readyz`, `/healthz` and `/metrics`."""
    readiness, liveness = tuple(ready), tuple(alive)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(readiness)

    async def healthz(_: web.Request) -> web.Response:
        return _answer(liveness)

    async def metricz(_: web.Request) -> web.Response:
        # Rendering takes milliseconds of CPU with many series: not on the event loop.
        body = await asyncio.to_thread(generate_latest)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metricz)
    return app


def informers_synced(informers: Iterable[Informer[Any]]) -> Check:
    """Ready once every informer has listed its resource once."""
    watched = tuple(informers)

    def check() -> str:
        missing = sorted(str(informer.resource) for informer in watched if not informer.synced.is_set())
        return f"waiting for the first list of {', '.join(missing)}" if missing else ""

    return check


def queue_moves(name: str, longest: Callable[[], float], limit: float = 900.0) -> Check:
    """Alive as long as no single reconcile takes longer than `limit` seconds; calls are bounded to far less."""

    def check() -> str:
        seconds = longest()
        return f"{name}: a reconcile has not ended for {seconds:.0f} s" if seconds > limit else ""

    return check


async def measure_lag(interval: float = LAG_INTERVAL) -> None:
    """Observe how late the event loop runs timers; ends when cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))


def _answer(checks: Iterable[Check]) -> web.Response:
    wrong = [words for check in checks if (words := check())]
    if wrong:
        return web.Response(status=503, text="\n".join(wrong) + "\n")
    return web.Response(text="ok\n")
