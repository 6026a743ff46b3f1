"""Uninstalling the operator leaves no object stuck; installing it again picks up what is there."""

from __future__ import annotations

from collections.abc import Callable

from tests.cluster import objects
from tests.cluster.conftest import SYSTEM, install
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for


def test_uninstall_leaves_nothing_stuck(ns: Kubectl, helm: Callable[..., str], cluster: Kubectl) -> None:
    ns.apply(objects.job("long", objects.UNTIL_TOLD), objects.pool("waiting", "nothing"))
    ns.wait_condition("tjob", "long", "Running")
    helm("uninstall", "aifactory", "-n", SYSTEM, "--wait")
    try:
        assert cluster.list("clusterroles", "app.kubernetes.io/instance=aifactory") == []
        assert cluster.list("validatingadmissionpolicies", "app.kubernetes.io/instance=aifactory") == []
        assert ns.get("tjob", "long")["status"]["phase"] == "Running", "training goes on without the operator"
        ns.run("delete", "tjob,ipool", "--all", "--timeout=60s")
        wait_for("the pods to follow their owner", lambda: ns.list("pods"), lambda pods: pods == [], seconds=90)
    finally:
        install(helm)
