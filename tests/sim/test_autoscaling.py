"""Autoscaling as stories: whoever leads, pods come when they are needed and go when they are not, and not before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready
from tests.sim.machine import settle
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

POOL = manifests.key("pool-a")
WAIT = 120
LOOKS = 40
"""Seconds until what has changed is known for certain."""


@pytest.fixture
def world() -> Iterator[World]:
    """A pool that serves with one pod, of eight at most; a pod is to have four requests."""
    world = World(seed=1)
    try:
        for number in (1, 2):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/good")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        metrics = [{"name": "inFlightRequests", "target": str(manifests.TARGET)}]
        scaling = {"minReplicas": 1, "maxReplicas": 8, "stabilizationSeconds": WAIT, "metrics": metrics}
        scaling["scaleUpStabilizationSeconds"] = 0
        spec = {**manifests.pool_spec("gpt", version=1), "autoscaling": scaling}
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        until_ready(world, 1, 60)
        yield world
        settle(world)
    finally:
        world.close()


def status(world: World) -> Body:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL).get("status", {})
    return found


def pods(world: World) -> int:
    return sum(map(is_ready, world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"})))


def until_ready(world: World, count: int, seconds: float) -> None:
    world.until(lambda: "" if pods(world) == count else f"{pods(world)} pods, {status(world)}", seconds)


def ask(world: World, requests: int) -> None:
    world.programs.ask(POOL, requests, world.loop.now)


def test_load_that_is_doubled_and_halved(world: World) -> None:
    ask(world, 8)
    until_ready(world, 2, 60)
    ask(world, 16)
    until_ready(world, 4, 60)
    world.advance(600.0)
    assert pods(world) == 4, "it stays so"
    before, since = sum(world.invariants.writes.values()), world.loop.now
    ask(world, 8)
    until_ready(world, 2, 2 * WAIT)
    assert world.loop.now - since >= WAIT
    world.advance(600.0)
    assert pods(world) == 2
    writes = sum(world.invariants.writes.values()) - before
    assert writes <= 16, "six while it waits, the costs of four pods, the Deployment, and what is told of it"
    changes = [(each["from"], each["to"]) for each in status(world)["scaling"]["decisions"]]
    assert changes == [(4, 2), (2, 4), (1, 2)]


@pytest.mark.parametrize("writes", range(1, 9))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    ask(world, 16)
    until_ready(world, 4, 120)
    world.crash_after_writes(0, writes)
    since = world.loop.now
    ask(world, 4)
    until_ready(world, 1, 2 * (WAIT + LOOKS))
    assert world.loop.now - since >= WAIT


def test_the_next_operator_goes_on_with_the_wait(world: World) -> None:
    ask(world, 16)
    until_ready(world, 4, 60)
    world.advance(LOOKS)
    ask(world, 4)
    since = world.loop.now
    world.until(lambda: "" if status(world)["scaling"].get("pending") else "no wait", LOOKS)
    world.advance(60.0)
    world.kill(0)
    until_ready(world, 1, WAIT)
    assert WAIT <= world.loop.now - since <= WAIT + LOOKS + 10, "not as long as from the next one's first look"


def test_what_nobody_knows_takes_no_pod_away(world: World) -> None:
    ask(world, 16)
    until_ready(world, 4, 60)
    silent = world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"})[0]["metadata"]["uid"]
    world.programs.mute[silent] = world.loop.now
    ask(world, 0)
    world.advance(10.0 * WAIT)
    assert pods(world) == 4
    assert status(world)["scaling"]["message"].startswith("1 pod does not answer")
    world.programs.mute.clear()
    until_ready(world, 1, 2 * (WAIT + LOOKS))
    world.advance(30.0)
    assert "message" not in status(world)["scaling"]


@pytest.mark.parametrize("seconds", [0.0, 5.0, 20.0])
def test_in_the_middle_of_a_change_of_version(world: World, seconds: float) -> None:
    ask(world, 8)
    until_ready(world, 2, 60)
    wish = {"models": [{"name": "gpt", "version": 2}], "rollout": {"strategy": "Surge"}}
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": wish}, "user", resource_version=None)
    world.advance(seconds)
    ask(world, 20)
    until_ready(world, 5, 120)
    world.until(lambda: "" if status(world)["version"] == "2" else "rolling", 120)
