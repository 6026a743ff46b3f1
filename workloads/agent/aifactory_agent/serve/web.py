"""The agent's HTTP side: what the kubelet, the operator and Prometheus ask. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from aifactory_agent.serve.metrics import Metrics
from aifactory_agent.serve.status import Status


def application(status: Callable[[], Status], metrics: Metrics) -> web.Application:
    """Routes `/readyz`, `/healthz`, `/v1/status` and `/metrics`."""

    async def readyz(_: web.Request) -> web.Response:
        now = status()
        return web.Response(status=200 if now.ready or now.carries else 503, text=f"{now.reason}: {now.message}\n")

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def v1_status(_: web.Request) -> web.Response:
        return web.json_response(status().as_json())

    async def prometheus(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/v1/status", v1_status)
    app.router.add_get("/metrics", prometheus)
    return app
