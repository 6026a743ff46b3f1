"""Who may reach a pool's pods: every pair of pods and every port, computed from the objects that are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.engine.plan import Create, Delete
from aifactory.serving import gateway, network
from aifactory.serving.network import Network
from tests.support import reach
from tests.unit.golden import assert_golden, assert_known_to_kubernetes
from tests.unit.serving.builders import SETTINGS, World, pool, version
from tests.unit.serving.test_children import objects

GOLDEN = Path(__file__).parent / "golden"
SYSTEM, MONITORING = ({"matchLabels": {"kubernetes.io/metadata.name": name}} for name in ("system", "monitoring"))
OPERATOR = {"namespaceSelector": SYSTEM, "podSelector": {"matchLabels": {"app": "operator"}}}
ON = Network(enabled=True, operator=(OPERATOR,), metrics_from=({"namespaceSelector": MONITORING},))
PORTS = (8000, 8001, 8002, 8003, 8081, 9000, 9901)
ENVOY = {"mode": "Envoy"}
FRIEND = {"podSelector": {"matchLabels": {"app": "friend"}}}


def pod(namespace: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """As the API server shows it."""
    meta = {"namespace": namespace, "name": name, "labels": labels}
    return {"metadata": meta, "spec": {"containers": []}, "status": {"podIP": f"10.0.0.{sum(name.encode()) % 250}"}}


def made(template: dict[str, Any], name: str) -> dict[str, Any]:
    """A pod of a Deployment."""
    return pod("ns", name, template["spec"]["template"]["metadata"]["labels"])


def table(policies: list[dict[str, Any]], **spec: Any) -> dict[str, dict[str, list[int]]]:
    """For each pod of the pool: who may open which of its ports."""
    owner = pool(gateway=ENVOY, **spec)
    serving, proxies = objects(owner, version(1))[2], gateway.deployment(owner, "gateway:1", "")
    pods = [
        *(made(serving, name) for name in ("serve-1", "serve-2")),
        made(proxies, "proxy"),
        pod("ns", "friend", {"app": "friend"}),
        pod("ns", "stranger", {}),
        pod("elsewhere", "abroad", {"app": "friend"}),
        pod("elsewhere", "poser", serving["spec"]["template"]["metadata"]["labels"]),
        pod("system", "operator", {"app": "operator"}),
        pod("monitoring", "prometheus", {}),
    ]
    spaces = {name: {"kubernetes.io/metadata.name": name} for name in ("ns", "elsewhere", "system", "monitoring")}
    cluster = reach.Network(tuple(policies), spaces)
    found: dict[str, dict[str, list[int]]] = {}
    for target in pods[:3]:
        for source in (each for each in pods if each is not target):
            ports = [port for port in PORTS if cluster.lets(source, target, port)]
            if ports:
                found.setdefault(target["metadata"]["name"], {})[source["metadata"]["name"]] = ports
    return found


def policies(*, openai: bool = True, proxies: bool = True, direct: bool = False, **spec: Any) -> list[dict[str, Any]]:
    return network.policies(pool(**spec), ON, openai=openai, proxies=proxies, direct=direct)


EVERYBODY = ("abroad", "friend", "operator", "poser", "prometheus", "proxy", "serve-1", "serve-2", "stranger")
DOORS, FIGURES = [8000, 8001, 9000], [8002, 8081]


def test_clients_reach_the_gateway_and_the_gateway_alone_the_pods() -> None:
    found = table(policies())
    to_pod = {"proxy": DOORS, "operator": FIGURES, "prometheus": FIGURES}
    to_proxy = {name: DOORS for name in EVERYBODY if name != "proxy"} | {"prometheus": [8000, 8001, 8003, 9000]}
    assert found == {"serve-1": to_pod, "serve-2": to_pod, "proxy": to_proxy}


def test_without_a_gateway_clients_reach_the_pods() -> None:
    found = table(policies(proxies=False, direct=True))
    watching = {name: [8000, 8001, 8002, 8081, 9000] for name in ("operator", "prometheus")}
    assert found["serve-1"] == {name: DOORS for name in EVERYBODY if name != "serve-1"} | watching
    assert not network.policies(pool(), ON, openai=True, proxies=False, direct=True)[1:], "there are no proxies"
    plain = table(policies(proxies=False, direct=True, openai=False))
    assert plain["serve-1"]["stranger"] == [8000, 8001], "nobody listens at OpenAI's port"


def test_clients_are_those_that_are_named() -> None:
    security = {"allowFrom": [FRIEND, {"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    found = table(policies(security=security))
    assert found["proxy"] == {"friend": DOORS, "prometheus": [8003]}
    found = table(policies(proxies=True, direct=True, security=security))
    assert found["serve-1"] == {"friend": DOORS, "proxy": DOORS, "operator": FIGURES, "prometheus": FIGURES}


def test_the_operator_asks_the_proxies_of_a_pool_that_goes_to_zero() -> None:
    metrics = [{"name": "inFlightRequests", "target": "4"}]
    found = table(policies(gateway=ENVOY, autoscaling={"minReplicas": 0, "maxReplicas": 2, "metrics": metrics}))
    assert found["proxy"]["operator"] == [8000, 8001, 8003, 9000]
    assert found["proxy"]["stranger"] == DOORS


def test_an_installation_that_names_nobody_lets_nobody_read_metrics() -> None:
    bare = network.policies(pool(), Network(), openai=True, proxies=True, direct=False)
    assert table(bare)["serve-1"] == {"proxy": DOORS}
    assert 8003 not in {port for ports in table(bare)["proxy"].values() for port in ports}


def test_without_policies_everybody_reaches_everything() -> None:
    assert table([])["serve-1"] == {name: list(PORTS) for name in EVERYBODY if name != "serve-1"}


def test_the_objects() -> None:
    found = policies(security={"allowFrom": [FRIEND]})
    for body in found:
        assert_known_to_kubernetes(body)
    assert_golden(GOLDEN / "network-policies.yaml", found)


# --- When ---


def world(*, enabled: bool = False, **spec: Any) -> World:
    found = World(pool(**spec), settings=replace(SETTINGS, network=ON.model_copy(update={"enabled": enabled})))
    found.publish(1)
    found.roll_out()
    return found


def test_a_pool_says_whether_it_has_policies_and_else_the_installation() -> None:
    assert set(world().policies) == set()
    assert set(world(enabled=True).policies) == {"chat-serving"}
    assert set(world(security={"networkPolicy": True}).policies) == {"chat-serving"}
    assert set(world(enabled=True, security={"networkPolicy": False}).policies) == set()
    assert set(world(enabled=True, security={"allowFrom": [FRIEND]}).policies) == {"chat-serving"}


def shut(found: World) -> bool:
    """Whether the gateway alone reaches the serving pods."""
    return "stranger" not in table(list(found.policies.values()))["serve-1"]


def test_clients_are_shut_out_once_they_are_led_to_the_gateway_and_let_in_before_they_are_led_back() -> None:
    found = world(enabled=True)
    found.edit(gateway=ENVOY)
    found.settle()
    assert set(found.policies) == {"chat-serving", "chat-gateway"}
    assert not found.gateway.routed
    assert not shut(found)
    found.proxies(1)
    assert found.gateway.routed
    assert shut(found)
    found.edit(gateway={"mode": "None"})
    decision = found.step()
    assert not shut(found)
    assert not [write for write in decision.writes if isinstance(write, Delete)]
    found.settle()
    assert set(found.policies) == {"chat-serving"}


def test_a_new_pool_with_a_gateway_is_shut_from_the_start() -> None:
    found = World(pool(gateway=ENVOY), settings=replace(SETTINGS, network=ON))
    decision = found.step()
    (made,) = (dict(write.body) for write in decision.writes if isinstance(write, Create) and write.kind == "Service")
    assert made["metadata"]["name"] == "chat"
    assert shut(found)


def test_policies_are_put_right_and_go_when_nobody_wants_them() -> None:
    found = world(enabled=True)
    kept = found.policies["chat-serving"]["spec"]
    found.meddle("chat-serving")
    found.settle()
    assert found.policies["chat-serving"]["spec"] == kept
    found.edit(security={"networkPolicy": False})
    found.settle()
    assert not found.policies


# --- What the installation says ---


def test_the_installations_words_are_read(tmp_path: Path) -> None:
    assert network.read("") == Network()
    path = tmp_path / "network.yaml"
    path.write_text("")
    assert network.read(str(path)) == Network()
    path.write_text(yaml.safe_dump(ON.model_dump(mode="json", by_alias=True)))
    assert network.read(str(path)) == ON


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enabled: perhaps", "networkPolicies.enabled: Input should be a valid boolean"),
        ("metricsFrom: [monitoring]", "networkPolicies.metricsFrom.0: Input should be a valid dictionary"),
        ("metrics: []", "networkPolicies.metrics: Extra inputs are not permitted"),
        ("{", "while parsing"),
    ],
)
def test_a_mistake_in_them_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"network\.yaml") as raised:
        network.read(str(path))
    assert words in str(raised.value)


def test_a_file_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"/nowhere: .*No such file"):
        network.read("/nowhere")


# --- The evaluator itself ---


@pytest.mark.parametrize(
    ("ingress", "allowed"),
    [
        ([], False),
        ([{}], True),
        ([{"from": [{"podSelector": {}}]}], True),
        ([{"from": [{"namespaceSelector": {}}]}], True),
        ([{"from": [{"namespaceSelector": {"matchLabels": {"a": "c"}}}]}], False),
        ([{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"x": "z"}}}]}], False),
        ([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], True),
        ([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/24"]}}]}], False),
        ([{"ports": [{"port": 80}]}], True),
        ([{"ports": [{"port": 79, "endPort": 81}]}], True),
        ([{"ports": [{"port": 81, "endPort": 90}]}], False),
        ([{"ports": [{"port": 80, "protocol": "UDP"}]}], False),
        ([{"ports": [{"port": "web"}]}], True),
        ([{"ports": [{"port": "other"}]}], False),
        ([{"ports": [{"protocol": "TCP"}]}], True),
        ([{"ports": [{"port": 81}]}, {"from": [{"podSelector": {}}]}], True),
        ([{"from": [{"podSelector": {"matchExpressions": [{"key": "x", "operator": "In", "values": ["y"]}]}}]}], True),
        (
            [{"from": [{"podSelector": {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]}}]}],
            False,
        ),
        ([{"from": [{"podSelector": {"matchExpressions": [{"key": "q", "operator": "Exists"}]}}]}], False),
        ([{"from": [{"podSelector": {"matchExpressions": [{"key": "q", "operator": "DoesNotExist"}]}}]}], True),
    ],
)
def test_what_a_policy_lets_in(ingress: list[Any], allowed: bool) -> None:
    source, target = pod("ns", "b", {"x": "y"}), pod("ns", "c", {"app": "web"})
    target["spec"]["containers"] = [{"ports": [{"name": "web", "containerPort": 80}]}]
    meta = {"namespace": "ns", "name": "p"}
    policy = {"metadata": meta, "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": ingress}}
    network = reach.Network((policy,), {"ns": {"a": "b"}})
    assert network.lets(source, target, 80) is allowed
    assert network.lets(target, source, 80), "nothing is said about the other"
    elsewhere = {**policy, "metadata": {"namespace": "other", "name": "p"}}
    assert reach.Network((elsewhere,), {"ns": {}}).lets(source, target, 80)
    out = {**policy, "spec": {**policy["spec"], "policyTypes": ["Egress"]}}
    assert reach.Network((out,), {"ns": {}}).lets(source, target, 80)
    target["spec"]["hostNetwork"] = True
    assert network.lets(source, target, 80), "a node's own addresses are not under policies"
