"""Fixtures: Envoy Gateway, the operator installed where the cluster has the Gateway API, a namespace for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.conftest import SYSTEM, cluster, helm, install, kubeconfig, leaving, namespace
from tests.gateway_api.running import installed
from tests.support.kubectl import Kubectl

__all__ = ["cluster", "helm", "kubeconfig", "leaving", "namespace"]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def operator(cluster: Kubectl, helm: Callable[..., str]) -> Kubectl:
    """The operator, running this checkout's code."""
    install(helm)
    restart(cluster)
    return cluster.within(SYSTEM)


def restart(cluster: Kubectl) -> None:
    """It looks at its start which APIs there are."""
    system = cluster.within(SYSTEM)
    system.run("rollout", "restart", "deployment/aifactory-operator")
    system.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s", timeout=150)


@pytest.fixture(scope="session")
def gateways(
    cluster: Kubectl, helm: Callable[..., str], operator: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """The namespace in which Gateways are; the operator has been started since the cluster has the Gateway API."""
    with installed(tmp_path_factory.mktemp("gateway"), cluster, helm) as within:
        restart(cluster)
        yield within
    restart(cluster)


@pytest.fixture
def ns(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[Kubectl]:
    """A namespace of the test's own."""
    yield from namespace(cluster, f"gw{next(_numbers)}-{os.getpid()}", leaving)
