"""Credentials that change while the process runs, and sessions that others close."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import aiohttp
import msgspec
import pytest

from aifactory.kube.api import Api
from aifactory.kube.auth import AuthError, Connection, SessionProvider, connect
from aifactory.kube.client import Client
from aifactory.kube.errors import Forbidden, Unauthorized
from aifactory.kube.resources import PODS, Resource

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)


async def new_token(provider: SessionProvider, namespace: str) -> str:
    url = f"{provider.connection.server}/api/v1/namespaces/{namespace}/serviceaccounts/operator/token"
    async with provider.session() as session, session.post(url, json={"spec": {"expirationSeconds": 600}}) as answer:
        assert answer.status == 201, await answer.text()
        return str((await answer.json())["status"]["token"])


async def allowed(pods: Api, namespace: str) -> None:
    """The API server takes a moment to see a new role binding."""
    async with asyncio.timeout(20):
        while True:
            try:
                await pods.list(PODS, namespace=namespace)
                return
            except Forbidden:
                await asyncio.sleep(0.05)


async def test_a_rotated_token_is_picked_up(
    provider: SessionProvider, client: Api, namespace: str, tmp_path: Path
) -> None:
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "operator", "namespace": namespace}})
    subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    await client.create(
        CLUSTER_ROLE_BINDINGS, {"metadata": {"name": namespace}, "roleRef": role, "subjects": [subject]}
    )
    file = tmp_path / "token"
    file.write_text(await new_token(provider, namespace))
    reads = 0

    async def authorization() -> str:
        nonlocal reads
        reads += 1
        return f"Bearer {file.read_text()}"

    # The administrator's client certificate must not be sent: the token alone shall decide.
    tls = provider.connection.tls
    if tls is not None:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection = Connection(provider.connection.server, "default", tls=tls, authorization=authorization)
    mine = SessionProvider(connection, user_agent="aifactory-test")
    pods = Client(mine)
    try:
        await allowed(pods, namespace)
        await pods.list(PODS, namespace=namespace)
        assert reads == 1, "the file is read for every call"
        file.write_text("no token at all")
        mine._read_at = time.monotonic() - 3600  # an hour later the file is read again
        with pytest.raises(Unauthorized):
            await pods.list(PODS, namespace=namespace)
        file.write_text(await new_token(provider, namespace))
        await pods.list(PODS, namespace=namespace)  # the 401 has it read once more, at once
    finally:
        await pods.close()
        await mine.close()


async def test_a_session_that_is_closed_leaves_the_others_open(provider: SessionProvider, client: Api) -> None:
    session = provider.session()
    url = f"{provider.connection.server}/version"
    async with session.get(url) as answer:
        assert msgspec.json.decode(await answer.read())["major"] == "1"
        assert answer.request_info.headers["User-Agent"] == "aifactory-test"
    await session.close()
    with pytest.raises(RuntimeError):
        await session.get(url)
    await client.list(PODS)
    async with provider.session() as another, another.get(url) as answer:
        assert answer.status == 200


async def test_a_missing_kubeconfig_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AuthError, match="set KUBECONFIG"):
        await connect()
    with pytest.raises(AuthError, match="nowhere"):
        await connect(str(tmp_path / "nowhere"))


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    mine = SessionProvider(Connection("http://127.0.0.1:9", "default"), user_agent="aifactory-test")
    session = mine.session()
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get("http://127.0.0.1:9/version")
    await session.close()
    await mine.close()
