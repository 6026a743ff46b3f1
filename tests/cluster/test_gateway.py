"""A pool behind Envoy, under clients of several kinds: pods and proxies are killed, the operator is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.component import hop
from tests.support.kubectl import Json, Kubectl, condition
from tests.support.waiting import wait_for

GATEWAY = {"gateway": {"mode": "Envoy"}, "rollout": {"strategy": "Surge"}}
DRAIN = {"drain": {"preStopSeconds": 10, "timeoutSeconds": 20}}
KINDS = ("http new", "http kept", "openai new", "openai kept", "openai streamed", "grpc new")
WHOLE = ("http new", "http kept", "openai new", "openai kept")
"""Whose answers come at once: until then a request can be sent to another pod."""
SERVING = "aifactory.dev/pool-name=front,aifactory.dev/role=serve"
PROXIES = "aifactory.dev/pool-name=front,aifactory.dev/role=gateway"


@pytest.fixture
def pool(trained: Kubectl) -> Iterator[Kubectl]:
    """Pool `front` serves version 1 of tiny by two pods behind two proxies; version 2 is there."""
    trained.apply(objects.copy_version(trained.get("mver", "tiny-v1"), 2))
    trained.wait_condition("mver", "tiny-v2", "Ready")
    trained.apply(objects.pool("front", "tiny", version=1, replicas=2, **GATEWAY, **DRAIN))
    trained.wait_condition("ipool", "front", "Ready", seconds=120)
    yield trained
    trained.run("delete", "ipool", "front")
    trained.wait_condition("mver", "tiny-v2", "InUse", "False")
    trained.run("delete", "mver", "tiny-v2")


@contextmanager
def away(operator: Kubectl) -> Iterator[None]:
    """The operator is not there."""
    operator.run("scale", "deployment/aifactory-operator", "--replicas=0")
    try:
        wait_for(
            "the operator to be gone",
            lambda: operator.list("pods", "app.kubernetes.io/name=aifactory-operator"),
            lambda seen: not seen,
        )
        yield
    finally:
        operator.run("scale", "deployment/aifactory-operator", "--replicas=1")
        operator.run("rollout", "status", "deployment/aifactory-operator", "--timeout=120s")


def sigkill(pod: Json, among: Callable[[str], bool] = lambda _: True) -> None:
    """SIGKILL to the processes of a pod, the one that holds its network included; the node is this machine."""
    uid, killed = pod["metadata"]["uid"], 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and uid in (entry / "cgroup").read_text() and among((entry / "comm").read_text()):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    assert killed


def restarts(pods: list[Json]) -> int:
    containers = [entry for pod in pods for entry in pod["status"].get("containerStatuses", ())]
    return sum(entry["restartCount"] for entry in containers)


def all_ready(pods: list[Json]) -> bool:
    return len(pods) == 2 and all(condition(pod, "Ready").get("status") == "True" for pod in pods)


def test_killed_pods_and_proxies_and_another_version(pool: Kubectl, operator: Kubectl) -> None:
    found = pool.get("ipool", "front")
    assert found["status"]["url"] == f"http://front.{pool.namespace}.svc:9000/v1"
    assert pool.get("service", "front")["spec"]["selector"]["aifactory.dev/role"] == "gateway"
    traffic = Traffic(pool, "front", "tiny", every_way=True, kinds=KINDS, reconnect=True)
    traffic.wait_for_every_way()

    with away(operator):
        sigkill(pool.list("pods", SERVING)[0])
        traffic.wait_for_more()
        failed = traffic.failed()
        assert not failed.keys() & set(WHOLE), f"{failed}: {traffic.last_failures()}"
        assert traffic.refused() == 0
        # What has begun to answer goes with its pod.
        assert sum(failed.values()) <= len(KINDS) - len(WHOLE), f"{failed}: {traffic.last_failures()}"
        wait_for("the pod to serve again", lambda: pool.list("pods", SERVING), all_ready, seconds=90)

        before = sum(failed.values())
        sigkill(pool.list("pods", PROXIES)[0], lambda command: command.startswith("envoy"))
        killed = time.monotonic()
        wait_for("Envoy to be started again", lambda: pool.list("pods", PROXIES), restarts, seconds=60)
        wait_for("both proxies", lambda: pool.list("pods", PROXIES), all_ready, seconds=60)
        back = time.monotonic() - killed
        traffic.wait_for_more()
        cut = sum(traffic.failed().values()) - before
        told = f"{cut} requests of {len(KINDS)} clients were cut, {traffic.refused()} connections refused"
        print(f"a proxy was killed: {told}; it was back after {back:.1f} s")
        # What is under way in it, and what was sent to it while it ended.
        assert cut <= 2 * len(KINDS), f"{traffic.failed()}: {traffic.last_failures()}"

    before = sum(traffic.failed().values())
    pool.run("patch", "ipool", "front", "--type=merge", "-p", '{"spec": {"models": [{"name": "tiny", "version": 2}]}}')
    found = pool.wait(
        "ipool",
        "front",
        "to serve version 2",
        lambda f: f["status"]["version"] == "2" and condition(f, "Ready")["status"] == "True",
        seconds=120,
    )
    wait_for("the old pods to be gone", lambda: pool.list("pods", SERVING), lambda seen: len(seen) == 2, seconds=90)
    traffic.wait_for_more()
    summary = traffic.stop()
    assert summary["failed"] == before, f"{summary['of']}: {summary['failures']}"
    print(f"answers: {summary['done']}")


@pytest.mark.skipif("AIFACTORY_HOP" not in os.environ, reason="a measurement of minutes, for a quiet machine")
def test_what_a_proxy_costs(trained: Kubectl) -> None:
    spec = {"gateway": {"mode": "Envoy", "replicas": 1}, **DRAIN}
    trained.apply(objects.pool("hop", "tiny", version=1, replicas=1, **spec))
    trained.wait_condition("ipool", "hop", "Ready", seconds=120)
    (pod,) = trained.list("pods", "aifactory.dev/pool-name=hop,aifactory.dev/role=serve")
    hosts = pod["status"]["podIP"], trained.get("service", "hop")["spec"]["clusterIP"]
    eight = hop.post("/v2/models/tiny/generate", {"text_input": "def ", "max_tokens": 8})
    stream = hop.post("/v1/completions", {"model": "tiny", "prompt": "def ", "max_tokens": 60, "stream": True})
    hop.tell(hosts, (("8 tokens", 8000, eight), ("a stream of 60 tokens", 9000, stream)))
    trained.run("delete", "ipool", "hop")
