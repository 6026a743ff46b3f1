"""The way to a pool's pods, as stories: through proxies and back, whatever is interrupted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import DEPLOYMENTS, PODS, SERVICES
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready, key_of, labels_of
from tests.sim.machine import settle
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

POOL = manifests.key("pool-a")
PROXIES = {names.LABEL_POOL: "pool-a", names.LABEL_ROLE: names.ROLE_GATEWAY}


@pytest.fixture
def world() -> Iterator[World]:
    """A pool of two pods, without a gateway, that serves version 1 of gpt; version 2 is there."""
    world = World(seed=1)
    try:
        for number in (1, 2):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/good")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        spec = manifests.pool_spec("gpt", version=1, replicas=2)
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        world.until(lambda: "" if ready(world) else "it starts", 60)
        yield world
        settle(world)
    finally:
        world.close()


def edit(world: World, **spec: object) -> None:
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": spec}, "user", resource_version=None)


def mode(world: World, mode: str) -> None:
    edit(world, gateway={"mode": mode})


def ready(world: World) -> bool:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL)
    status = found.get("status", {})
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", ())}
    return conditions.get("Ready") == "True" and status["observedGeneration"] == found["metadata"]["generation"]


def until_ready(world: World, seconds: float = 60.0) -> None:
    world.advance(0.5)
    world.until(lambda: "" if ready(world) else "not ready", seconds, step=0.2)


def leads(world: World) -> str:
    selector: Body = world.cluster.get(SERVICES, *POOL)["spec"]["selector"]
    return str(selector[names.LABEL_ROLE])


def proxies(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **PROXIES) if is_ready(pod)]


def test_through_proxies_and_back(world: World) -> None:
    written = sum(world.invariants.writes.values())
    mode(world, "Envoy")
    until_ready(world)
    assert (leads(world), len(proxies(world))) == ("gateway", 2)
    world.advance(10.0)
    writes = sum(world.invariants.writes.values()) - written
    assert writes <= 6 + 3, "Deployment, ConfigMap, budget, three Services, and what the status tells"
    mode(world, "None")
    until_ready(world)
    world.advance(10.0)
    assert (leads(world), proxies(world)) == ("serve", [])


@pytest.mark.parametrize("writes", range(1, 9))
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int, back: bool) -> None:
    if back:
        mode(world, "Envoy")
        until_ready(world)
    world.crash_after_writes(0, writes)
    mode(world, "None" if back else "Envoy")
    until_ready(world, 180.0)
    assert leads(world) == ("serve" if back else "gateway")


def test_another_version_behind_proxies_costs_no_proxy(world: World) -> None:
    mode(world, "Envoy")
    until_ready(world)
    before = {pod["metadata"]["uid"] for pod in proxies(world)}
    edit(world, models=[{"name": "gpt", "version": 2}], rollout={"strategy": "Surge"})
    until_ready(world)
    world.advance(10.0)
    told = {labels_of(pod)[names.LABEL_ASSIGNMENT] for pod in proxies(world)}
    assert len(told) == 1
    assert {pod["metadata"]["uid"] for pod in proxies(world)} == before


def test_proxies_that_somebody_deletes_are_made_again_and_told_meanwhile(world: World) -> None:
    mode(world, "Envoy")
    until_ready(world)
    (deployment,) = world.cluster.all(DEPLOYMENTS, **PROXIES)
    world.cluster.delete(DEPLOYMENTS, key_of(deployment), "user")
    world.until(lambda: "not told" if ready(world) else "", 30.0, step=0.2)
    until_ready(world)
    assert len(proxies(world)) == 2


def test_while_the_operator_is_away_a_killed_proxy_comes_back(world: World) -> None:
    mode(world, "Envoy")
    until_ready(world)
    world.kill(0, away=120.0)
    world.cluster.delete(PODS, key_of(proxies(world)[0]), "user")
    world.advance(30.0)
    assert len(proxies(world)) == 2
    assert leads(world) == "gateway"


def behind(world: World) -> None:
    edit(world, gateway=manifests.gateway("GatewayAPI"))


def test_through_a_gateway_of_the_users_and_back(world: World) -> None:
    written = sum(world.invariants.writes.values())
    behind(world)
    until_ready(world)
    world.advance(10.0)
    assert world.gateways.led[POOL] == {"pool-a": 100}
    writes = sum(world.invariants.writes.values()) - written
    assert writes <= 2 + 3, "a Service, the HTTPRoute, and what the status tells"
    edit(world, gateway=manifests.gateway("Envoy"))
    until_ready(world)
    world.advance(10.0)
    assert (leads(world), POOL in world.gateways.led) == ("gateway", False)


STEPS = [{"weight": 50}, {"pauseSeconds": 10}, {"weight": 100}]


@pytest.mark.parametrize("writes", range(1, 20))
def test_a_canary_behind_a_gateway_and_an_operator_that_is_killed_after_any_write(world: World, writes: int) -> None:
    """`Invariants` looks whether pods go that the Gateway leads to."""
    behind(world)
    until_ready(world)
    seen: list[dict[str, int]] = []
    world.crash_after_writes(0, writes)
    edit(world, models=[{"name": "gpt", "version": 2}], rollout={"strategy": "Canary", "steps": STEPS})

    def served() -> str:
        seen.append(dict(world.gateways.led[POOL]))
        status: Body = world.cluster.get(INFERENCEPOOLS, *POOL)["status"]
        return "" if ready(world) and status["version"] == "2" else "it goes over"

    world.until(served, 300.0, step=0.2)
    world.advance(30.0)
    assert [50, 50] in [sorted(each.values()) for each in seen]
    assert world.gateways.led[POOL] == {"pool-a": 100}
    assert len(world.cluster.all(DEPLOYMENTS)) == 1
