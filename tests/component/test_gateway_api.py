"""Pools behind a Gateway, with the real operator and the Gateway API's own CRDs on a real API server.

Kubelets and the Gateway's controller are played: that one says of a route what a test has it say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster import toolchain
from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.component.test_operator import make_ready
from tests.support.kubectl import ROOT, Json, Kubectl, command, condition
from tests.support.waiting import wait_for

SELECTOR = "aifactory.dev/pool-name=chat"
MODULE = "sigs.k8s.io/gateway-api"
HTTP, GRPC = "httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io"
GATEWAYS = "gateways.gateway.networking.k8s.io"
ROLLOUT = {"strategy": "Canary", "steps": [{"weight": 10}, {"pause": {}}, {"weight": 100}]}
BEHIND: Json = {
    "mode": "GatewayAPI",
    "parentRefs": [{"name": "public", "sectionName": "web"}],
    "hostnames": ["chat.example.com"],
    "timeoutSeconds": 600,
    "grpc": {"hostnames": ["grpc.example.com"]},
}


def crds() -> list[Path]:
    """Of the standard channel."""
    go, module = str(toolchain.ensure_go()), str(ROOT / "tests/component/gatewayapi")
    told = command([go, "-C", module, "mod", "download", "-json", MODULE], GOFLAGS="-mod=readonly", GOWORK="off")
    folder = Path(json.loads(told)["Dir"]) / "config/crd/standard"
    return [folder / f"gateway.networking.k8s.io_{kind}.yaml" for kind in ("gateways", "httproutes", "grpcroutes")]


@pytest.fixture
def gateway_api(kubectl: Kubectl) -> Iterator[None]:
    """The API server serves it as long as the test runs."""
    files = [argument for path in crds() for argument in ("-f", str(path))]
    kubectl.run("apply", "--server-side", *files)
    try:
        kubectl.run("wait", "--for=condition=Established", *files, "--timeout=30s")
        yield
    finally:
        kubectl.run("delete", *files, "--timeout=60s")


def say(ns: Kubectl, kind: str, name: str, status: Json) -> None:
    ns.run("patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def told(generation: int, *types: str, **reasons: str) -> list[Json]:
    """Conditions: those of these types are True, and those that have a reason False."""
    time = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation}
    found: list[Json] = [{"type": each, "status": "True", "reason": each, "message": "", **time} for each in types]
    return found + [
        {"type": each, "status": "False", "reason": reason, "message": "no", **time} for each, reason in reasons.items()
    ]


def take(ns: Kubectl, **reasons: str) -> None:
    """The controller looks at both routes, and takes them where no reason is given."""
    for kind in (HTTP, GRPC):
        found = ns.get(kind, "chat")
        types = () if reasons else ("Accepted", "ResolvedRefs")
        conditions = told(found["metadata"]["generation"], *types, **reasons)
        (ref,) = found["spec"]["parentRefs"]
        parent = {"parentRef": ref, "controllerName": "example.com/played", "conditions": conditions}
        say(ns, kind, "chat", {"parents": [parent]})


def gateway(ns: Kubectl) -> None:
    """A Gateway that its controller has taken on."""
    listeners = [{"name": "web", "port": 8080, "protocol": "HTTP"}]
    ns.apply(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": "played", "listeners": listeners},
        }
    )


def reason(found: Json) -> str:
    return str(condition(found, "Ready").get("reason"))


def until(ns: Kubectl, expected: str) -> Json:
    return ns.wait("ipool", "chat", f"to say {expected}", lambda found: reason(found) == expected)


def leads(ns: Kubectl) -> dict[str, int]:
    """Where the HTTPRoute leads."""
    rules = ns.get(HTTP, "chat")["spec"]["rules"]
    (found,) = {tuple((ref["name"], ref["weight"]) for ref in rule["backendRefs"]) for rule in rules}
    return dict(found)


def start(ns: Kubectl, address: str, number: int) -> None:
    """The next pod of the pool answers."""
    ns.wait("ipool", "chat", "to have its pods", lambda _: len(ns.list("pods", SELECTOR)) == number)
    waiting = [pod for pod in ns.list("pods", SELECTOR) if not condition(pod, "Ready")]
    pods.serve(ns, waiting[0]["metadata"]["name"], address)


def test_a_cluster_without_the_gateway_api(ns: Kubectl, start_operator: Callable[..., Operator]) -> None:
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    ns.apply(objects.pool("chat", "m", gateway=BEHIND))
    make_ready(ns, 1)
    start(ns, "127.0.0.41", 1)
    found = until(ns, "GatewayApiMissing")
    assert condition(found, "Available")["status"] == "True", "the Service leads to it"
    assert condition(found, "Stalled")["message"].endswith(
        "the cluster does not serve HTTPRoutes of gateway.networking.k8s.io/v1: install the Gateway API and restart "
        "the operator, or write gateway.mode Envoy or None"
    )
    ns.run("patch", "ipool", "chat", "--type=merge", "-p", '{"spec": {"gateway": null}}')
    ns.wait_condition("ipool", "chat", "Ready")
    assert process.stop() == 0, process.words()


def test_from_no_gateway_to_a_canary_by_weights_and_back(
    ns: Kubectl, gateway_api: None, start_operator: Callable[..., Operator]
) -> None:
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    ns.apply(objects.pool("chat", "m", gateway=BEHIND, rollout=ROLLOUT))
    make_ready(ns, 1)
    start(ns, "127.0.0.41", 1)
    found = until(ns, "GatewayNotFound")
    assert condition(found, "Stalled")["status"] == "True"
    gateway(ns)
    until(ns, "GatewayNotReady")
    say(ns, GATEWAYS, "public", {"conditions": told(1, "Accepted", "Programmed")})
    take(ns, Accepted="NotAllowedByListeners")
    found = until(ns, "RouteNotAccepted")
    assert f"let routes of namespace {ns.namespace} in by allowedRoutes" in condition(found, "Stalled")["message"]
    take(ns)
    found = until(ns, "Serving")
    assert found["status"]["url"] == "http://chat.example.com:8080/v1"
    assert leads(ns) == {"chat": 100}
    stable = [each["metadata"]["name"] for each in ns.list("services", SELECTOR) if each["metadata"]["name"] != "chat"]
    assert len(stable) == 1

    ns.run("patch", HTTP, "chat", "--type=merge", "-p", '{"spec": {"hostnames": ["evil.example.com"]}}')
    wait_for("the route put right", lambda: ns.get(HTTP, "chat")["spec"]["hostnames"], ["chat.example.com"].__eq__)
    take(ns)

    make_ready(ns, 2)
    wait_for("the stable set to have all", lambda: leads(ns), lambda seen: seen == {stable[0]: 100})
    take(ns)
    start(ns, "127.0.0.42", 2)
    wait_for("the weights", lambda: sorted(leads(ns).values()), [10, 90].__eq__)
    take(ns)
    found = ns.wait(
        "ipool", "chat", "to say so", lambda seen: "10 are led to m-v2" in seen["status"]["traffic"], seconds=30
    )
    assert found["status"]["rollout"]["actualWeight"] == 10
    ns.run("annotate", "ipool", "chat", "aifactory.dev/promote=now")
    wait_for(
        "the new set to have all", lambda: leads(ns), lambda seen: [*seen.values()] == [100] and stable[0] not in seen
    )
    ns.wait("ipool", "chat", "to be promoted", lambda seen: seen["status"]["version"] == "2")
    assert len(ns.list("deployments", SELECTOR)) == 2, "the Gateway has not said yet that it leads elsewhere"
    take(ns)
    wait_for("the old set to be gone", lambda: ns.list("deployments", SELECTOR), lambda seen: len(seen) == 1)
    wait_for("one Service for all", lambda: leads(ns), {"chat": 100}.__eq__)
    wait_for(
        "its Service to be gone",
        lambda: [each["metadata"]["name"] for each in ns.list("services", SELECTOR)],
        lambda seen: stable[0] not in seen,
    )
    take(ns)
    until(ns, "Serving")

    ns.run("delete", GATEWAYS, "public")
    found = until(ns, "GatewayNotFound")
    assert condition(found, "Degraded")["status"] == "True"
    ns.run("patch", "ipool", "chat", "--type=merge", "-p", '{"spec": {"gateway": null}}')
    until(ns, "Serving")
    assert not ns.list(HTTP)
    assert not ns.list(GRPC)
    assert process.stop() == 0, process.words()
    assert "Traceback" not in process.log.read_text(), process.words()
