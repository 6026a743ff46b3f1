"""One real API server for all tests of this folder; each test works in a namespace of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from aifactory.kube.api import Api
from aifactory.kube.auth import SessionProvider, from_kubeconfig
from aifactory.kube.client import Client
from aifactory.kube.resources import NAMESPACES
from aifactory.kube.retry import Retrying
from localcluster.controlplane import ControlPlane

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver without controllers: nothing happens by itself."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
async def provider(control_plane: ControlPlane) -> AsyncIterator[SessionProvider]:
    found = SessionProvider(await from_kubeconfig(str(control_plane.kubeconfig)), user_agent="aifactory-test")
    yield found
    await found.close()


@pytest.fixture
async def client(provider: SessionProvider) -> AsyncIterator[Api]:
    found = Client(provider)
    yield Retrying(found)
    await found.close()


@pytest.fixture
async def namespace(client: Api) -> str:
    name = f"test-{next(_numbers)}"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    return name
