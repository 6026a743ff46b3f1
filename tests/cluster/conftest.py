"""Fixtures: the cluster, the installed operator, a namespace for each test, one trained model for those that serve."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.cluster import objects
from tests.support.kubectl import ROOT, Kubectl, binary, command
from tests.support.waiting import wait_for

SYSTEM = "aifactory-system"
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Uninstalling comes last: it takes the operator away from everybody else."""
    items.sort(key=lambda item: "test_uninstall" in item.nodeid)


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """Path of the local cluster's kubeconfig."""
    return command([sys.executable, "localcluster/cluster.py", "kubeconfig"]).strip()


@pytest.fixture(scope="session")
def cluster(kubeconfig: str) -> Kubectl:
    """kubectl for the local cluster."""
    kubectl = Kubectl(binary("kubectl"), kubeconfig)
    kubectl.run("get", "--raw", "/readyz")
    return kubectl


@pytest.fixture(scope="session")
def helm(kubeconfig: str) -> Callable[..., str]:
    """helm for the local cluster."""
    path = binary("helm")
    return lambda *args: command([path, "--kubeconfig", kubeconfig, *args])


@pytest.fixture(scope="session")
def operator(cluster: Kubectl, helm: Callable[..., str]) -> Kubectl:
    """The operator, installed from the chart and running this checkout's code."""
    install(helm)
    system = cluster.within(SYSTEM)
    system.run("rollout", "restart", "deployment/aifactory-operator")
    system.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s", timeout=150)
    return system


def install(helm: Callable[..., str], *options: str) -> None:
    """Install the chart as a user would."""
    helm(
        "upgrade",
        "--install",
        "aifactory",
        str(ROOT / "charts/aifactory"),
        "-n",
        SYSTEM,
        "--create-namespace",
        "--wait",
        *options,
    )


@pytest.fixture(scope="session")
def leaving(cluster: Kubectl) -> Iterator[list[str]]:
    """Namespaces that are being deleted. Pods take their time to end, so all are waited for once, at the end."""
    names: list[str] = []
    yield names
    wait_for(
        "the tests' namespaces to be gone with everything in them",
        lambda: {entry["metadata"]["name"]: entry["status"] for entry in cluster.list("namespaces")},
        lambda found: not found.keys() & set(names),
        seconds=180,
    )


@pytest.fixture
def ns(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[Kubectl]:
    """A namespace of the test's own; it must go away with everything in it."""
    yield from namespace(cluster, f"t{next(_numbers)}-{os.getpid()}", leaving)


def namespace(cluster: Kubectl, name: str, leaving: list[str]) -> Iterator[Kubectl]:
    """Make a namespace, and afterwards have it deleted."""
    cluster.run("create", "namespace", name)
    # Every pod we make passes the strictest profile; a pod that does not is refused here.
    cluster.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield cluster.within(name)
    finally:  # a fixture that fails on the way leaves nothing behind either
        leaving.append(name)
        cluster.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def trained(workshop: Kubectl) -> Iterator[Kubectl]:
    """A namespace in which ModelVersion tiny-v1 is Ready, and which the next test finds as this one did."""
    yield workshop
    workshop.run("delete", "ipool", "--all")
    workshop.run("delete", "pods", "-l", objects.HELPERS, "--grace-period=1")
    rest = [f"{kind}/{name}" for kind in ("tjob", "mver") for name in _names(workshop, kind) - {"tiny", "tiny-v1"}]
    if rest:
        free = partial(workshop.run, "delete", *rest, "--dry-run=server", check=False)
        wait_for("nobody to use the test's versions", free, lambda seen: seen.code == 0)
        workshop.run("delete", *rest)


def _names(within: Kubectl, kind: str) -> set[str]:
    return {found["metadata"]["name"] for found in within.list(kind)}


@pytest.fixture(scope="session")
def workshop(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[Kubectl]:
    """The namespace of `trained`, made by a short training run."""
    for within in namespace(cluster, f"trained-{os.getpid()}", leaving):
        within.apply(objects.training_job("tiny", steps=20, nodes=1, output="tiny"))
        within.wait_condition("tjob", "tiny", "Complete", seconds=180)
        within.wait_condition("mver", "tiny-v1", "Ready", seconds=60)
        wait_for(
            "the API server to have read the deletion guard, whose kinds are as new as the cluster",
            partial(within.run, "delete", "mver", "tiny-v1", "--dry-run=server", check=False),
            lambda seen: seen.code == 0,
            seconds=60,
        )
        yield within
