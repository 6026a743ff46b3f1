"""What `helm test` asks, against a real API server and a real operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aifactory.app.check import Installation, examine
from aifactory.kube import auth
from aifactory.kube.client import Client
from localcluster.controlplane import ControlPlane
from tests.component.conftest import Operator
from tests.support.kubectl import Kubectl


@asynccontextmanager
async def client(control_plane: ControlPlane) -> AsyncIterator[Client]:
    provider = auth.SessionProvider(await auth.connect(str(control_plane.kubeconfig)), user_agent="test")
    api = Client(provider)
    try:
        yield api
    finally:
        await api.close()
        await provider.close()


async def test_helm_test_says_what_holds_and_what_is_missing(
    control_plane: ControlPlane, ns: Kubectl, start_operator: Callable[..., Operator]
) -> None:
    space = str(ns.namespace)

    async with client(control_plane) as api:

        async def check(release: str = "system/one", url: str = "http://127.0.0.1:1", seconds: float = 0) -> list[str]:
            said: list[str] = []
            release_of = Installation(api, release=release, lease_namespace=space, namespace=space, url=url)
            code = await examine(release_of, seconds, said.append)
            assert code == said[-1].startswith("failed: ")
            return said

        kinds, leader = await check()
        assert kinds.startswith("ok: the API server serves trainingjobs, modelversions, inferencepools")
        assert "not found" in leader

        operator = start_operator(
            f"--namespace={space}", f"--lease-namespace={space}", "--release=system/one", "--lease-seconds=3"
        )
        operator.wait_ready()
        url = f"http://127.0.0.1:{operator.http_port}"
        _, leader, ready = await check(url=url, seconds=30)
        assert f"leads over namespace {space}" in leader
        assert ready == f"ok: {url} is ready"
        assert "failed: release system/one acts on" in (await check("system/two"))[-1]
        assert (await check(seconds=4))[-1].startswith("failed: Cannot connect to host 127.0.0.1:1")
        operator.kill()
        assert "does not renew lease" in (await check(url=url, seconds=1))[-1]
