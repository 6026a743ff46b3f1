"""A pool behind Envoy, under clients of several kinds: pods and proxies are killed, the operator is away."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.traffic import Traffic
from tests.component import hop
from tests.support import reach
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
def pool(trained: Kubectl) -> Kubectl:
    """Pool `front` serves version 1 of tiny by two pods behind two proxies; version 2 is there."""
    trained.apply(objects.copy_version(trained.get("mver", "tiny-v1"), 2))
    trained.wait_condition("mver", "tiny-v2", "Ready")
    trained.apply(objects.pool("front", "tiny", version=1, replicas=2, **GATEWAY, **DRAIN))
    trained.wait_condition("ipool", "front", "Ready", seconds=120)
    return trained


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
    began = time.monotonic()
    policies_say_who_may_reach_whom(pool, operator)
    print(f"policies: {time.monotonic() - began:.0f} s")
    proxies_go_on_until_their_secret_is_there(pool)
    print(f"and keys: {time.monotonic() - began:.0f} s")


def from_a_pod(kubectl: Kubectl, program: str, *args: str) -> Any:
    """What a program prints that runs in a serving pod."""
    pod = kubectl.list("pods", SERVING)[0]["metadata"]["name"]
    return json.loads(kubectl.run("exec", pod, "-c", "agent", "--", "python3", "-c", program, *args).out)


PORTS = (8000, 8001, 8002, 8003, 8081, 9000)
CONNECT = """
import json, socket, sys
def reached(address):
    host, port = address.rsplit(":", 1)
    try: socket.create_connection((host, int(port)), timeout=1).close()
    except OSError: return False
    return True
print(json.dumps({address: reached(address) for address in sys.argv[1:]}))
"""
ASK = """
import json, sys, urllib.error, urllib.request
body = json.dumps({"model": "tiny", "prompt": "def ", "max_tokens": 4}).encode()
def status(key):
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try: return urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, headers), timeout=20).status
    except urllib.error.HTTPError as error: return error.code
print(json.dumps([status(key) for key in sys.argv[2:]]))
"""


def policies_say_who_may_reach_whom(pool: Kubectl, operator: Kubectl) -> None:
    """Of all pods of the namespace, and the operator's: every pair and every port."""
    pool.run("patch", "ipool", "front", "--type=merge", "-p", '{"spec": {"security": {"networkPolicy": true}}}')
    pool.wait("networkpolicy", "front-gateway", "to be there", bool, seconds=20)
    policies, serving, proxies = (
        pool.list(*each) for each in (("networkpolicies",), ("pods", SERVING), ("pods", PROXIES))
    )
    others = [*pool.list("pods"), *operator.list("pods", "app.kubernetes.io/name=aifactory-operator")]
    spaces = {each["metadata"]["name"]: each["metadata"]["labels"] for each in pool.list("namespaces")}
    network = reach.Network(tuple(policies), spaces)
    names = {role: {each["metadata"]["name"] for each in found} for role, found in (("s", serving), ("p", proxies))}

    def may(source: Json, target: Json) -> set[int]:
        return {port for port in PORTS if network.lets(source, target, port)}

    for source in others:
        name, system = source["metadata"]["name"], source["metadata"]["namespace"] == operator.namespace
        wanted = {8000, 8001, 9000} if name in names["p"] else {8002, 8081} if system else set()
        for target in serving:
            assert name == target["metadata"]["name"] or may(source, target) == wanted, name
        for target in proxies:
            assert name == target["metadata"]["name"] or may(source, target) == {8000, 8001, 9000}, name

    first, second = serving
    forbidden = [f"{second['status']['podIP']}:{port}" for port in (8000, 8002, 8081)]
    assert not may(first, second)
    # docs/limits.md says so. Should that change, what is forbidden can be shown to be.
    assert from_a_pod(pool, CONNECT, *forbidden) == dict.fromkeys(forbidden, True), "the network here enforces policies"


def proxies_go_on_until_their_secret_is_there(pool: Kubectl) -> None:
    url, key = f"http://front.{pool.namespace}.svc:9000/v1/completions", "a-key-of-somebody-0123456789"
    spec = {"spec": {"gateway": {"apiKeys": {"secretRef": {"name": "front-keys"}}}}}
    pool.run("patch", "ipool", "front", "--type=merge", "-p", json.dumps(spec))
    found = pool.wait_condition("ipool", "front", "Stalled", seconds=60)
    told = condition(found, "Stalled")
    assert told["reason"] == "VolumeNotMounted"
    assert 'secret "front-keys" not found; check that the Secret' in told["message"]
    assert condition(found, "Ready")["status"] == "False"
    assert condition(found, "Available")["status"] == "True"
    assert from_a_pod(pool, ASK, url, "") == [200]

    pool.run("create", "secret", "generic", "front-keys", f"--from-literal=keys=somebody {key}")
    pool.wait_condition("ipool", "front", "Ready", seconds=90)
    assert from_a_pod(pool, ASK, url, "", key, f"{key}x", key) == [401, 200, 401, 200]
    everything = pool.run("get", "configmaps,ipool,pods,events", "-o", "json").out
    everything += "".join(pool.run("logs", pod["metadata"]["name"]).out for pod in pool.list("pods", PROXIES))
    assert key not in everything


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
