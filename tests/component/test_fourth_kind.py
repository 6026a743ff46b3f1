"""A kind that `app` has never heard of (`tests/support/herd.py`, and one line) is reconciled by the real process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from aifactory.api.crd import KindDefinition, render
from tests.cluster import objects
from tests.component.conftest import Operator
from tests.support.herd import Herd
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def operator(kubectl: Kubectl, start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    kubectl.apply(render(KindDefinition(Herd, short="herd", columns=())))
    kubectl.run("wait", "--for=condition=Established", "crd/herds.aifactory.dev", "--timeout=30s")
    process = start_operator("--lease-seconds=3", "--herd-image=idle:2", module="tests.support.herd_operator")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()


def pods(ns: Kubectl) -> set[str]:
    return {pod["metadata"]["name"] for pod in ns.list("pods") if "deletionTimestamp" not in pod["metadata"]}


def herd(size: int) -> dict[str, object]:
    return {
        "apiVersion": "aifactory.dev/v1alpha1",
        "kind": "Herd",
        "metadata": {"name": "h"},
        "spec": {"size": size},
    }


def test_it_makes_its_children_watches_them_and_writes_its_status(ns: Kubectl, operator: Operator) -> None:
    ns.apply(herd(3))
    wait_for("three pods", lambda: pods(ns), lambda seen: seen == {"h-0", "h-1", "h-2"})
    assert ns.get("pod", "h-0")["spec"]["containers"][0]["image"] == "idle:2", "its option"
    wait_for("the status", lambda: ns.get("herd", "h").get("status", {}), lambda seen: seen.get("full") is True)
    ns.run("delete", "pod", "h-1", "--wait=false")
    wait_for("the pod made again", lambda: ns.get("pod", "h-1"), lambda pod: bool(pod))
    ns.apply(herd(1))
    wait_for("one pod", lambda: pods(ns), lambda seen: seen == {"h-0"})
    wait_for(
        "the status of the new generation",
        lambda: ns.get("herd", "h")["status"],
        lambda seen: (seen["observedGeneration"], seen["pods"]) == (2, 1),
    )
    ns.run("delete", "herd", "h")
    wait_for("no pod", lambda: pods(ns), lambda seen: not seen)


def test_the_other_kinds_are_reconciled_beside_it(ns: Kubectl, operator: Operator) -> None:
    ns.apply(objects.job("beside", ["true"]))
    wait_for("the job's pod", lambda: ns.get("pod", "beside-0-0"), bool)
    assert "Traceback" not in operator.log.read_text(), operator.words()
