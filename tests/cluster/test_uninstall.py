"""Uninstalling the operator leaves nothing stuck, and makes room for others; installed again it finds what is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import objects
from tests.cluster.conftest import SYSTEM, install, namespace
from tests.support.chart import CHART
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for

Helm = Callable[..., str]


@pytest.fixture
def spaces(cluster: Kubectl, operator: Kubectl, leaving: list[str]) -> Iterator[list[Kubectl]]:
    """Two namespaces under Pod Security restricted."""
    made = [namespace(cluster, f"two-{name}-{os.getpid()}", leaving) for name in ("a", "b")]
    yield [next(each) for each in made]
    for each in made:
        next(each, None)


def test_uninstall_leaves_nothing_stuck(ns: Kubectl, helm: Helm, cluster: Kubectl, spaces: list[Kubectl]) -> None:
    assert "Succeeded" in helm("test", "aifactory", "-n", SYSTEM)
    ns.apply(objects.job("long", objects.UNTIL_TOLD), objects.pool("waiting", "nothing"))
    ns.wait_condition("tjob", "long", "Running")
    kept = helm("uninstall", "aifactory", "-n", SYSTEM, "--wait")
    try:
        assert all(f"{plural}.aifactory.dev" in kept for plural in ("trainingjobs", "modelversions", "inferencepools"))
        assert cluster.list("clusterroles", "app.kubernetes.io/instance=aifactory") == []
        assert cluster.list("validatingadmissionpolicies", "app.kubernetes.io/instance=aifactory") == []
        assert cluster.within(SYSTEM).list("deployments") == []
        assert cluster.within(SYSTEM).list("services") == []
        assert ns.get("tjob", "long")["status"]["phase"] == "Running", "training goes on without the operator"
        ns.run("delete", "tjob,ipool", "--all", "--timeout=60s")
        wait_for("the pods to follow their owner", lambda: ns.list("pods"), lambda pods: pods == [], seconds=90)
        run_two_releases(cluster, helm, spaces)
    finally:
        install(helm)


def run_two_releases(cluster: Kubectl, helm: Helm, spaces: list[Kubectl]) -> None:
    """Each for a namespace of its own and in it, where no pod but a restricted one is let in, as whatever user."""
    leases = cluster.within("kube-system")
    leases.run("delete", "lease", "aifactory.dev")  # they need not wait until its release is taken for gone
    for number, space in enumerate(spaces):
        name, user = f"release-{number}", 1000690000 + number
        values = f"crds.install=false,watchNamespaces={{{space.namespace}}}"
        context = (
            f"podSecurityContext.runAsUser={user},podSecurityContext.runAsGroup=0,podSecurityContext.fsGroup={user}"
        )
        helm("install", name, str(CHART), "-n", str(space.namespace), "--set", f"{values},{context}", "--wait")
    for number, space in enumerate(spaces):
        space.apply(objects.job("quick", ["true"]))
        assert "Succeeded" in helm("test", f"release-{number}", "-n", str(space.namespace))
        space.wait_condition("tjob", "quick", "Complete", seconds=60)
        helm("uninstall", f"release-{number}", "-n", str(space.namespace), "--wait")
        leases.run("delete", "lease", f"{space.namespace}.aifactory.dev")
