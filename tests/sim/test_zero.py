"""To zero and back as stories: whoever leads, the last pod goes when nobody asks, and comes when somebody does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS
from tests.sim import manifests
from tests.sim.cluster import is_ready, key_of
from tests.sim.machine import settle
from tests.sim.test_autoscaling import POOL, ask, status
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

IDLE = 20
LOOKS = 40
"""Seconds until what has changed is known for certain."""
SERVING = {names.LABEL_POOL: "pool-a", names.LABEL_ROLE: names.ROLE_SERVE}
PROXIES = {names.LABEL_POOL: "pool-a", names.LABEL_ROLE: names.ROLE_GATEWAY}


@pytest.fixture
def world() -> Iterator[World]:
    """A pool at zero, behind two proxies; version 2 is there too."""
    world = World(seed=1)
    try:
        for number in (1, 2):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/good")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        more = {"autoscaling": manifests.autoscaling("zero"), "gateway": {"mode": "Envoy"}}
        spec = {**manifests.pool_spec("gpt", version=1), **more}
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        until(world, 1, 60)
        until(world, 0, IDLE + LOOKS)
        until_reason(world, "ScaledToZero")
        yield world
        settle(world)
    finally:
        world.close()


def pods(world: World) -> int:
    return sum(map(is_ready, world.cluster.all(PODS, **SERVING)))


def until(world: World, count: int, seconds: float) -> None:
    world.until(lambda: "" if pods(world) == count else f"{pods(world)} pods, {status(world)}", seconds)


def until_reason(world: World, reason: str, seconds: float = 60) -> None:
    def found() -> str:
        ready = {each["type"]: (each["status"], each["reason"]) for each in status(world)["conditions"]}["Ready"]
        return "" if ready == ("True", reason) else f"{ready}"

    world.until(found, seconds)


def changes(world: World) -> list[tuple[int, int]]:
    return [(each["from"], each["to"]) for each in status(world)["scaling"]["decisions"]]


def test_a_request_starts_a_pod_which_goes_when_it_is_idle(world: World) -> None:
    before = sum(world.invariants.writes.values())
    world.advance(600.0)
    assert sum(world.invariants.writes.values()) == before, "at zero nothing is written"
    ask(world, 1)
    asked = world.loop.now
    until(world, 1, 30)
    assert world.loop.now - asked < 15
    until_reason(world, "Serving")
    world.advance(600.0)
    assert pods(world) == 1, "it stays while somebody asks"
    ask(world, 0)
    until(world, 0, IDLE + LOOKS)
    until_reason(world, "ScaledToZero")
    world.advance(600.0)
    assert changes(world) == [(1, 0), (0, 1), (1, 0)], "and not once more"


def test_many_requests_start_several(world: World) -> None:
    ask(world, 9)
    until(world, 3, 30)
    assert changes(world)[0] == (0, 3)


@pytest.mark.parametrize("writes", range(1, 7))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    ask(world, 1)
    until(world, 1, 90)
    until_reason(world, "Serving")
    world.crash_after_writes(0, writes)
    ask(world, 0)
    until(world, 0, 2 * (IDLE + LOOKS))


def test_what_waits_while_the_operator_is_away_is_found_by_the_next_one(world: World) -> None:
    world.kill(0, away=60.0)
    ask(world, 2)
    world.advance(50.0)
    assert pods(world) == 0
    until(world, 1, 60)


def test_proxies_that_go_and_come_back_hold_as_before(world: World) -> None:
    for proxy in world.cluster.all(PODS, **PROXIES):
        world.cluster.delete(PODS, key_of(proxy), "user")
    ask(world, 2)
    until(world, 1, 60)


@pytest.mark.parametrize("strategy", ["Auto", "Surge", "Canary"])
@pytest.mark.parametrize("asks", [False, True], ids=["nobody asks", "somebody asks"])
def test_another_version_while_there_is_no_pod(world: World, asks: bool, strategy: str) -> None:
    rollout = {"strategy": strategy, "steps": [{"weight": 50}, {"pauseSeconds": 5}] if strategy == "Canary" else None}
    wish = {"models": [{"name": "gpt", "version": 2}], "rollout": rollout}
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": wish}, "user", resource_version=None)
    if asks:
        ask(world, 1)
        until(world, 1, 60)
    world.until(lambda: "" if status(world).get("version") == "2" else "rolling", 60)
    ask(world, 1)
    until(world, 1, 60)


def test_requests_that_come_when_the_last_pod_is_about_to_go(world: World) -> None:
    ask(world, 1)
    until(world, 1, 30)
    ask(world, 0)
    world.until(lambda: "" if status(world)["scaling"]["replicas"] == 0 else "not yet", IDLE + LOOKS, step=0.05)
    ask(world, 3)
    until(world, 1, 60)
    until_reason(world, "Serving")
