"""A pool behind a Gateway of the user's: what its routes lead to, what keeps them, and what its status says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.api.reasons import ConditionType
from aifactory.engine.apply import Applied
from aifactory.kube.objects import Gateway, Route, decoder
from aifactory.serving import route
from aifactory.serving.domain import route_view
from aifactory.serving.state import (
    ListenerView,
    Observed,
    Parent,
    ParentGateway,
    RevisionView,
    RoutesView,
    RouteView,
    Said,
)
from tests.unit.golden import assert_golden
from tests.unit.serving.builders import SETTINGS, World, conditions, message, pool, serving, version
from tests.unit.serving.test_steps import ask

GOLDEN = Path(__file__).parent / "golden"
PUBLIC = Parent("gateways", "public")
OPEN = ParentGateway("gateways", "public", class_name="eg", listeners=(ListenerView("http"),), address="192.0.2.7")
BEHIND: dict[str, Any] = {
    "mode": "GatewayAPI",
    "parentRefs": [{"name": "public", "namespace": "gateways"}],
    "hostnames": ["chat.example.com"],
}
GRPC = {**BEHIND, "grpc": {"hostnames": ["grpc.example.com"]}}
CANARY = {"strategy": "Canary", "steps": [{"weight": 25}, {"pause": {}}, {"weight": 100}]}
ADDRESS = "http://chat.example.com/v1"


def starting(*gateways: ParentGateway, **spec: Any) -> World:
    """A pool behind a Gateway whose controller has yet to look at its route; its pods serve."""
    world = World(pool(**{"gateway": BEHIND, **spec}), routes=RoutesView(gateways=gateways or (OPEN,)))
    world.publish(1)
    world.roll_out()
    return world


def reached(**spec: Any) -> World:
    """The same when the route is taken."""
    world = starting(**spec)
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving"), message(world.status)
    return world


def host(world: World, number: int) -> str:
    return route.set_host(world.pool, world.revision(number))


def leads(world: World, kind: str = "HTTPRoute") -> dict[str, int]:
    """Where the route leads as it is written."""
    rules = world.route_bodies[kind]["spec"]["rules"]
    (found,) = [{ref["name"]: ref["weight"] for ref in refs} for refs in ([*rule["backendRefs"]] for rule in rules[:1])]
    return found


def test_the_objects() -> None:
    view = RevisionView(Applied("chat-v2-0-1", "uid"), "v2-0-1", 2, ready=2, model_version="tiny-v1")
    spec = {**GRPC, "timeoutSeconds": 120, "parentRefs": [*BEHIND["parentRefs"], {"name": "own", "sectionName": "web"}]}
    observed = Observed(pool(gateway=spec), SETTINGS, versions=(version(1),), revisions=(view,))
    assert_golden(GOLDEN / "routes.yaml", [*route.services(observed), *route.bodies(observed).values()])


def test_a_grpcroute_may_hang_on_a_gateway_of_its_own() -> None:
    own = pool(gateway={**BEHIND, "grpc": {"parentRefs": [{"name": "own", "sectionName": "grpc"}]}})
    for owner, grpc in (
        (own, Parent("ns", "own", "grpc")),
        (pool(gateway=GRPC), PUBLIC),
        (pool(gateway=BEHIND), PUBLIC),
    ):
        assert route.parents(owner, "HTTPRoute") == (PUBLIC,)
        assert route.parents(owner, "GRPCRoute") == (grpc,)


def sets(*pods: str, **changes: Any) -> tuple[RevisionView, ...]:
    return tuple(RevisionView(Applied(f"chat-{each}", each), each, 1, ready=1, **changes) for each in pods)


def test_the_services_of_sets_are_in_the_order_of_their_names() -> None:
    observed = Observed(pool(gateway=BEHIND), SETTINGS, revisions=sets("v2-a", "v1-a"))
    named = [body["spec"]["selector"]["aifactory.dev/revision"] for body in route.services(observed)]
    assert named == ["v1-a", "v2-a"]


def test_a_kind_that_is_not_served_keeps_no_other_from_being_written() -> None:
    observed = Observed(pool(gateway=GRPC), SETTINGS, revisions=sets("v1-a"), routes=RoutesView(("HTTPRoute",)))
    assert [(write.kind, write.name) for write in route.writes(observed)] == [("GRPCRoute", "chat")]


def behind(*said: Said, leads: Any = (), grpc: bool = False, **spec: Any) -> Observed:
    """A pool whose route leads there, and what the controllers of its Gateways say of it."""
    parents = (PUBLIC, Parent("ns", "own"))
    view = RouteView(Applied("chat", "u"), 5, leads, dict(zip(parents, said, strict=False)))
    refs = [*BEHIND["parentRefs"], {"name": "own"}]
    owner = pool(**{"gateway": {**GRPC, "parentRefs": refs}, **spec})
    routes = RoutesView(grpc=view) if grpc else RoutesView(http=view)
    return Observed(owner, SETTINGS, revisions=sets("v2-a", "v1-a"), routes=routes)


def test_pods_are_held_while_a_gateway_may_lead_to_them() -> None:
    there = ((route.set_host(pool(), "v1-a"), 100),)
    old, new = Said(4, accepted=True), Said(5, accepted=True)
    for grpc in (False, True):
        assert not route.holds(behind(new, leads=(), grpc=grpc), "v1-a")
        assert route.holds(behind(new, leads=there, grpc=grpc), "v1-a")
        assert not route.holds(behind(new, leads=there, grpc=grpc), "v2-a")
        assert route.holds(behind(old, grpc=grpc), "v1-a"), "by the route as it was"
        assert route.holds(behind(new, old, grpc=grpc), "v1-a"), "one of them has yet to look"
        assert not route.holds(behind(Said(5), leads=there, grpc=grpc), "v1-a"), "nobody has taken it"
    assert not route.holds(behind(new, leads=there, grpc=True, gateway=BEHIND), "v1-a"), "that route goes"


def test_the_parts_of_the_sets_are_those_of_the_route() -> None:
    leads = tuple((route.set_host(pool(), pods), part) for pods, part in (("v1-a", 75), ("v2-a", 25)))
    observed = behind(Said(5, accepted=True), leads=leads)
    first, second = observed.revisions
    named = replace(observed, revisions=(first, replace(second, model_version="tiny-v1")))
    assert route.is_reached(named) is True
    assert route.parts(named) == {"v1-a": 75, "v2-a": 25}
    assert route.words(named) == "; of 100 requests 75 are led to tiny-v1 and 25 are led to v2-a"
    unreached = behind(Said(5), leads=leads)
    assert (route.is_reached(unreached), route.words(unreached)) == (False, "")
    alike = behind(Said(5, accepted=True), leads=(("chat", 100),))
    assert (route.parts(alike), route.words(alike)) == ({}, "")
    assert route.parts(behind(leads=leads, gateway={"mode": "Envoy"})) == {}
    assert route.parts(behind(leads=leads, grpc=True)) == {}


def test_a_model_of_tensors_has_no_path_for_openai_and_no_limit_of_time_is_none() -> None:
    observed = Observed(pool(gateway=BEHIND), SETTINGS, versions=(version(1, format="torch-export"),))
    (rule,) = route.bodies(observed)["HTTPRoute"]["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v2"}}]
    assert rule["timeouts"] == {"request": "0s"}, "left out it is 15 s with Envoy, and a stream takes longer"


def test_it_is_ready_when_the_gateway_has_taken_its_route() -> None:
    world = starting()
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert conditions(world.status)["Available"] == ("True", "Serving"), "the Service leads to the pods"
    assert conditions(world.status)["Degraded"][0] == "False", "what has yet to come is missing from nobody"
    assert message(world.status, ConditionType.RECONCILING) == (
        "tiny-v1: 2 of 2 pods have it loaded; "
        "the controller of Gateway gateways/public has not looked at HTTPRoute chat"
    )
    assert world.status.url == "http://chat.ns.svc:9000/v1"
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.status.url == ADDRESS
    assert leads(world) == {"chat": 100}
    assert not world.gateway.deployment, "no proxies of its own"


def said(world: World) -> tuple[tuple[str, str], str]:
    """What is said of the way to a pool that has all pods, without what is said of them."""
    flags = conditions(world.status)
    assert flags["Ready"][0] == "False"
    (true,) = (each for each in (ConditionType.STALLED, ConditionType.RECONCILING) if flags[each][0] == "True")
    return (str(true), flags[true][1]), message(world.status, true).removeprefix(
        "tiny-v1: 2 of 2 pods have it loaded; "
    )


TROUBLES: dict[str, tuple[dict[str, Any], tuple[str, str], str]] = {
    "no API": (
        {"unserved": ("HTTPRoute", "GRPCRoute")},
        ("Stalled", "GatewayApiMissing"),
        "the cluster does not serve HTTPRoutes of gateway.networking.k8s.io/v1: install the Gateway API and restart "
        "the operator, or write gateway.mode Envoy or None",
    ),
    "no Gateway": (
        {"gateways": (replace(OPEN, found=False),)},
        ("Stalled", "GatewayNotFound"),
        "there is no Gateway gateways/public: create it, or correct spec.gateway.parentRefs",
    ),
    "nobody for its class": (
        {"gateways": (replace(OPEN, taken_on=False),)},
        ("Reconciling", "GatewayNotReady"),
        "no controller has taken on Gateway gateways/public of GatewayClass eg: install or start the one that its "
        "class names, or correct spec.gateway.parentRefs",
    ),
    "no address": (
        {"gateways": (replace(OPEN, trouble="AddressNotAssigned: No addresses have been assigned"),)},
        ("Reconciling", "GatewayNotReady"),
        "Gateway gateways/public is not as it should be: AddressNotAssigned: No addresses have been assigned; see "
        "kubectl -n gateways describe gateway public",
    ),
    "where the operator does not look": (
        {"gateways": (replace(OPEN, found=False, known=False),)},
        ("Reconciling", "GatewayNotReady"),
        "the controller of Gateway gateways/public has not looked at HTTPRoute chat",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_what_is_missing_is_told_with_the_way_out(name: str) -> None:
    routes, condition, words = TROUBLES[name]
    world = World(pool(gateway=BEHIND), routes=RoutesView(**{"gateways": (OPEN,), **routes}))
    world.publish(1)
    world.roll_out()
    assert said(world) == (condition, words)
    assert ("HTTPRoute" in world.route_bodies) == (name != "no API")
    world.routes = replace(world.routes, gateways=(OPEN,), unserved=())
    world.settle()
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving"), "it goes on by itself"


REFUSALS = {
    "NotAllowedByListeners: No listeners": (
        "let routes of namespace ns in by allowedRoutes of a listener, or name another Gateway"
    ),
    "NoMatchingListenerHostname: none": "correct the hostnames in spec.gateway, or add a listener for them",
    "NoMatchingParent: none": "correct sectionName in spec.gateway.parentRefs",
    "UnsupportedValue: timeouts": "change spec.gateway or the Gateway as that says",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_told_in_the_controllers_words(refusal: str) -> None:
    world = starting()
    world.take_routes(accepted=False, refusal=refusal)
    assert said(world) == (
        ("Stalled", "RouteNotAccepted"),
        f"Gateway gateways/public does not take HTTPRoute chat: {refusal}; {REFUSALS[refusal]}",
    )
    assert world.status.url == "http://chat.ns.svc:9000/v1"
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_a_listener_that_is_not_there_is_told_by_name() -> None:
    spec = {**BEHIND, "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "web"}]}
    world = starting(gateway=spec)
    expected = "Gateway gateways/public has no listener named web, it has http: add it, or correct "
    assert said(world) == (("Stalled", "GatewayNotFound"), f"{expected}spec.gateway.parentRefs")
    world.routes = replace(world.routes, gateways=(replace(OPEN, listeners=()),))
    world.settle()
    assert said(world)[1] == expected.replace("it has http", "it has none") + "spec.gateway.parentRefs"
    unseen = replace(OPEN, found=False, known=False, listeners=())
    for gateways in ((), (unseen,)):
        world.routes = replace(world.routes, gateways=gateways)
        world.settle()
        assert said(world)[1] == "the controller of Gateway gateways/public has not looked at HTTPRoute chat"
    world.routes = replace(world.routes, gateways=(replace(OPEN, listeners=(ListenerView("web"),)),))
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_a_gateway_where_the_operator_does_not_look_counts_when_its_controller_has_taken_the_route() -> None:
    world = starting(replace(OPEN, found=False, known=False, listeners=(), address=""))
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.status.url == "http://chat.ns.svc:9000/v1", "nobody knows the other one"


CHANGE = "the controller of Gateway gateways/public has yet to take the change of HTTPRoute chat"
HEARD: dict[str, tuple[Said | None, bool, str | None]] = {
    "nothing": (None, True, "the controller of Gateway gateways/public has not looked at HTTPRoute chat"),
    "a refusal of what it was before": (Said(4, refusal="NoMatchingParent: none"), True, CHANGE),
    "neither yes nor no": (Said(5), True, CHANGE),
    "yes to what it was before": (Said(4, accepted=True), False, CHANGE),
    "yes to what it was before, in a pool that was ready": (Said(4, accepted=True), True, None),
    "yes": (Said(5, accepted=True), False, None),
}


@pytest.mark.parametrize("name", HEARD)
def test_what_a_controller_says_counts_for_the_route_that_it_has_looked_at(name: str) -> None:
    told, was_ready, words = HEARD[name]
    world = reached()
    assert world.routes.http is not None
    http = replace(world.routes.http, generation=5, said={PUBLIC: told} if told is not None else {})
    observed = replace(world.observed(), routes=replace(world.routes, http=http))
    if not was_ready:
        status = world.status.model_copy(update={"conditions": ()})
        observed = replace(observed, pool=world.pool.model_copy(update={"status": status}))
    problem = route.problem(observed)
    assert (problem.message if problem is not None else None) == words


def test_a_gateway_that_goes_away_degrades_the_pool() -> None:
    world = reached()
    world.routes = replace(world.routes, gateways=(replace(OPEN, found=False),))
    world.settle()
    assert said(world)[0] == ("Stalled", "GatewayNotFound")
    assert conditions(world.status)["Degraded"] == ("True", "GatewayNotFound")
    assert world.status.url == "http://chat.ns.svc:9000/v1", "that still answers"
    world.settle()
    assert conditions(world.status)["Degraded"] == ("True", "GatewayNotFound"), "and it stays so"
    world.routes = replace(world.routes, gateways=(OPEN,))
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_every_parent_has_to_take_it_and_grpc_too() -> None:
    other = replace(OPEN, namespace="ns", name="own")
    spec = {**GRPC, "parentRefs": [*BEHIND["parentRefs"], {"name": "own"}]}
    world = starting(OPEN, other, gateway=spec)
    world.take_routes(settle=False)
    http, grpc = world.routes.http, world.routes.grpc
    assert http is not None
    assert grpc is not None
    world.routes = replace(world.routes, grpc=replace(grpc, said={}))
    world.settle()
    assert said(world)[1] == "the controller of Gateway gateways/public has not looked at GRPCRoute chat"
    world.routes = replace(world.routes, grpc=grpc, http=replace(http, said={PUBLIC: http.said[PUBLIC]}))
    world.settle()
    assert said(world)[1] == "the controller of Gateway ns/own has not looked at HTTPRoute chat"
    world.routes = replace(world.routes, http=http)
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    world.edit(gateway=BEHIND)
    world.settle()
    assert set(world.route_bodies) == {"HTTPRoute"}


def test_other_hostnames_count_when_the_gateway_has_taken_them() -> None:
    world = reached()
    world.edit(gateway={**BEHIND, "hostnames": ["talk.example.com"]})
    world.settle()
    assert said(world)[1] == "the controller of Gateway gateways/public has yet to take the change of HTTPRoute chat"
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.status.url == "http://talk.example.com/v1"


def canary(**spec: Any) -> World:
    """The candidate of a Canary has its part, and waits for somebody."""
    world = reached(rollout=CANARY, replicas=4, **spec)
    world.publish(2)
    world.settle()
    assert leads(world) == {host(world, 1): 100}, "what it may be given up for is led to by its own Service"
    world.take_routes()
    world.load()
    assert leads(world) == {host(world, 1): 75, host(world, 2): 25}
    world.take_routes()
    assert world.status.reason == "WaitingForPromotion"
    return world


def test_a_canary_splits_requests_by_weights_and_the_status_says_what_the_gateway_has() -> None:
    world = canary()
    assert world.status.traffic.endswith("answer; of 100 requests 75 are led to tiny-v1 and 25 are led to tiny-v2")
    assert world.status.rollout is not None
    assert (world.status.rollout.weight, world.status.rollout.actual_weight) == (25, 25)
    ask(world, "promote")
    world.settle()
    for _ in range(8):
        world.load()
        world.take_routes()
        world.bury()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.status.version == "2"
    assert leads(world) == {"chat": 100}
    assert [service.name for service in world.gateway.services] == [host(world, 2)], "the other one went with its pods"


def test_requests_are_split_once_the_services_of_all_sets_are_there() -> None:
    world = canary()
    observed = world.observed()
    first, second = observed.gateway.services
    split = ((host(world, 1), 75), (host(world, 2), 25))
    for services, expected in (
        ((first, second), split),
        ((first,), (("chat", 100),)),
        ((second,), (("chat", 100),)),
    ):
        assert route.leads(replace(observed, gateway=replace(observed.gateway, services=services))) == expected


def test_what_part_a_candidate_gets_is_told_by_the_route_and_not_by_its_pods() -> None:
    world = canary()
    assert world.status.rollout is not None
    world.live(1)[0].ready = False
    world.settle()
    assert world.status.traffic.startswith("2 pods of tiny-v1 and 1 of tiny-v2 answer")
    assert (world.status.rollout.actual_weight, world.status.rollout.summary) == (25, "2: 25%")


def test_the_pods_of_before_stay_until_the_gateway_leads_to_them_no_more() -> None:
    world = canary()
    old = f"chat-{world.revision(1)}"
    ask(world, "promote")
    world.settle()
    world.load(8)  # all pods of the new version are ready, and the controller has not looked at the route since
    assert world.status.version == "2"
    assert leads(world) == {host(world, 2): 100}
    assert old in world.deployments, "the Gateway leads there yet"
    assert conditions(world.status)["Ready"][0] == "False", "nothing is said before it is so"
    world.take_routes()
    assert old not in world.deployments
    assert leads(world) == {"chat": 100}
    assert conditions(world.status)["Ready"] == ("True", "Serving"), "no flapping for a route that has changed since"
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_a_candidate_that_is_taken_back_stays_until_the_gateway_leads_to_it_no_more() -> None:
    world = canary()
    new = f"chat-{world.revision(2)}"
    ask(world, "abort")
    world.settle()
    assert leads(world) == {host(world, 1): 100}
    assert new in world.deployments
    world.take_routes()
    world.load(4)
    assert new not in world.deployments


def test_without_a_controller_that_has_ever_taken_the_route_nothing_is_waited_for() -> None:
    world = starting(rollout={"strategy": "Surge"})
    world.publish(2)
    world.roll_out()
    assert list(world.deployments) == [f"chat-{world.revision(2)}"]


def test_a_surge_changes_no_route() -> None:
    world = reached(rollout={"strategy": "Surge"})
    before = world.routes.http
    world.publish(2)
    world.roll_out()
    assert world.status.version == "2"
    assert world.routes.http == before


def test_from_proxies_of_its_own_to_a_gateway_and_back() -> None:
    world = serving(1, gateway={"mode": "None"})
    world.routes = RoutesView(gateways=(OPEN,))
    world.edit(gateway={"mode": "Envoy"})
    world.settle()
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    world.edit(gateway=BEHIND)
    world.settle()
    world.take_routes()
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert not world.gateway.routed
    assert world.gateway.deployment is None
    assert [service.name for service in world.gateway.services] == [host(world, 1)]
    world.edit(gateway={"mode": "Envoy"})
    world.settle()
    assert not world.route_bodies
    world.proxies(2)
    assert host(world, 1) not in [service.name for service in world.gateway.services]
    world.edit(gateway={"mode": "None"})
    world.settle()
    assert not world.gateway.services


LISTENERS = {
    "plain": (ListenerView("http"), "http://chat.example.com/v1"),
    "port": (ListenerView("web", 8080), "http://chat.example.com:8080/v1"),
    "tls": (ListenerView("tls", 443, "HTTPS"), "https://chat.example.com/v1"),
    "wildcard": (ListenerView("http", hostname="*.example.com"), "http://chat.example.com/v1"),
    "another name": (ListenerView("http", hostname="other.example.com"), "http://chat.ns.svc:9000/v1"),
    "no http": (ListenerView("tcp", 9000, "TCP"), "http://chat.ns.svc:9000/v1"),
}


@pytest.mark.parametrize("name", LISTENERS)
def test_the_address_is_what_clients_ask(name: str) -> None:
    listener, address = LISTENERS[name]
    world = starting(replace(OPEN, listeners=(listener,)))
    world.take_routes()
    assert world.status.url == address


def test_the_address_without_a_name_is_the_gateways_own_and_tls_is_preferred() -> None:
    spec = {"mode": "GatewayAPI", "parentRefs": BEHIND["parentRefs"]}
    both = (ListenerView("http"), ListenerView("tls", 443, "HTTPS"))
    for gateway, address in (
        (OPEN, "http://192.0.2.7/v1"),
        (replace(OPEN, address="2001:db8::7"), "http://[2001:db8::7]/v1"),
        (replace(OPEN, listeners=both), "https://192.0.2.7/v1"),
        (replace(OPEN, address=""), "http://chat.ns.svc:9000/v1"),
        (
            replace(OPEN, address="", listeners=(ListenerView("http", hostname="a.example.com"),)),
            "http://a.example.com/v1",
        ),
    ):
        world = starting(gateway, gateway=spec)
        world.take_routes()
        assert world.status.url == address
    world = starting(gateway=spec)
    world.routes = replace(world.routes, gateways=(replace(OPEN, trouble="Pending: it starts"),))
    world.take_routes()
    assert world.status.url == "http://chat.ns.svc:9000/v1", "nobody answers there yet"


CHAT, TALK = "chat.example.com", "talk.example.org"
TLS = ListenerView("tls", 443, "HTTPS")
NAMES: dict[str, tuple[list[str], str, tuple[ListenerView, ...], str]] = {
    "the listener that is named": ([CHAT], "http", (TLS, ListenerView("http")), "http://chat.example.com"),
    "a wildcard is no name": (["*.example.com"], "", (ListenerView("http"),), "http://192.0.2.7"),
    "a name beside a wildcard": (["*.example.com", TALK], "", (ListenerView("http"),), "http://talk.example.org"),
    "the name of that listener": (
        [CHAT, TALK],
        "",
        (ListenerView("http", hostname="*.example.org"),),
        "http://talk.example.org",
    ),
    "the listener's one name of many": (
        ["*.example.com"],
        "",
        (ListenerView("http", hostname=CHAT),),
        "http://chat.example.com",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_address_is_a_name_that_leads_to_the_listener(name: str) -> None:
    hostnames, section, listeners, address = NAMES[name]
    refs = [{**BEHIND["parentRefs"][0], **({"sectionName": section} if section else {})}]
    gateway = replace(OPEN, listeners=listeners)
    world = starting(gateway, gateway={**BEHIND, "hostnames": hostnames, "parentRefs": refs})
    world.take_routes()
    assert world.status.url == f"{address}/v1"


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("chat.example.com", "chat.example.com", True),
        ("*.example.com", "chat.example.com", True),
        ("*.example.com", "a.chat.example.com", True),
        ("*.example.com", "*.chat.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "chat.example.org", False),
        ("chat.example.com", "what.example.com", False),
    ],
)
def test_names_that_have_one_in_common(one: str, other: str, common: bool) -> None:
    assert route._overlap(one, other) is common
    assert route._overlap(other, one) is common


STORED = """
metadata: {name: chat, namespace: ns, uid: u, generation: 3}
spec:
  parentRefs:
  - {group: gateway.networking.k8s.io, kind: Gateway, name: public, namespace: gateways}
  - {group: gateway.networking.k8s.io, kind: Gateway, name: own, sectionName: web}
  rules:
  - backendRefs: [{name: a, port: 9000, weight: 75}, {name: b, port: 9000, weight: 25}, {name: c, weight: 0}]
  - backendRefs: [{name: a, port: 8000, weight: 75}, {name: b, port: 8000, weight: 25}]
status:
  parents:
  - parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: public, namespace: gateways}
    controllerName: example.com/eg
    conditions:
    - {type: Accepted, status: "True", reason: Accepted, message: Route is accepted, observedGeneration: 3}
    - {type: ResolvedRefs, status: "True", reason: ResolvedRefs, message: "", observedGeneration: 3}
  - parentRef: {group: gateway.networking.k8s.io, kind: Gateway, name: own, sectionName: web}
    controllerName: example.com/eg
    conditions:
    - {type: Accepted, status: "True", reason: Accepted, message: fine, observedGeneration: 2}
    - {type: ResolvedRefs, status: "False", reason: BackendNotFound, message: no b, observedGeneration: 2}
  - parentRef: {name: silent}
    controllerName: example.com/other
"""


def test_what_is_read_of_a_route() -> None:
    stored = yaml.safe_load(STORED)
    view = route_view(decoder(Route)(json.dumps(stored).encode()))
    assert view.generation == 3
    assert view.leads == (("a", 75), ("b", 25))
    assert view.said == {
        Parent("gateways", "public"): Said(3, accepted=True),
        Parent("ns", "own", "web"): Said(2, accepted=True, refusal="BackendNotFound: no b"),
    }
    bare = decoder(Gateway)(b'{"metadata": {"name": "public"}}')
    assert bare.spec.listeners == ()
