"""Pods that change over from one version to another, as stories: whatever is interrupted, each version answers until
the next one does, and no pod comes or goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, PODS
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready, labels_of
from tests.sim.machine import settle
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

POOL = manifests.key("pool-a")


@pytest.fixture
def world() -> Iterator[World]:
    """A pool of three pods that serves version 1 of gpt, of which versions 2, 3 (does not load) and 4 are there."""
    world = World(seed=1)
    try:
        world.programs.unloadable.add("pvc://models/gpt/3/unloadable")
        world.programs.large_models.add("pvc://models/gpt/4/large")
        for number, quality in ((1, "good"), (2, "good"), (3, "unloadable"), (4, "large")):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/{quality}")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        spec = manifests.pool_spec("gpt", version=1, replicas=3)
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        world.until(lambda: "" if status(world).get("phase") == "Serving" else "it starts", 60)
        yield world
        settle(world)
    finally:
        world.close()


def status(world: World) -> Body:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL).get("status", {})
    return found


def pods(world: World) -> list[Body]:
    return world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"})


def identities(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(world)}


def answers(world: World) -> list[int]:
    """The version that each ready pod answers from."""
    served = [world.programs.served(pod) for pod in pods(world) if is_ready(pod)]
    return sorted(found["version"] for found in served if found is not None)


def pin(world: World, number: int, **spec: Body) -> None:
    wish = {"models": [{"name": "gpt", "version": number}], **spec}
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": wish}, "user", resource_version=None)


def until_served(world: World, number: int, seconds: float = 60.0) -> None:
    def missing() -> str:
        found = status(world)
        there = found["stable"]["version"] == number and found["phase"] == "Serving"
        return "" if there else f"{found['phase']} {found.get('rollout')}"

    world.until(missing, seconds, step=0.2)
    assert answers(world) == [number] * 3


def test_there_and_back_with_the_same_pods(world: World) -> None:
    before = identities(world)
    written = sum(world.invariants.writes.values())
    pin(world, 2)
    until_served(world, 2)
    world.advance(10.0)
    writes = sum(world.invariants.writes.values()) - written
    assert writes <= 1 + 3 + 2 + 6, "the ConfigMap, three pods, two versions' users, and what the status tells"
    started = world.loop.now
    pin(world, 1)
    until_served(world, 1)
    assert world.loop.now - started < 5.0, "it was at hand"
    assert identities(world) == before
    assert len(world.cluster.all(DEPLOYMENTS)) == 1


@pytest.mark.parametrize("writes", range(1, 10))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    before = identities(world)
    world.crash_after_writes(0, writes)
    pin(world, 2)
    until_served(world, 2, 180.0)
    assert identities(world) == before


@pytest.mark.parametrize("writes", range(1, 10))
def test_one_that_is_killed_while_a_version_is_taken_back_goes_on(world: World, writes: int) -> None:
    before = identities(world)
    world.crash_after_writes(0, writes)
    pin(world, 3)
    world.until(lambda: "" if status(world)["phase"] == "Degraded" else "changing", 180)
    world.advance(10.0)
    assert answers(world) == [1, 1, 1]
    assert identities(world) == before
    assert status(world)["rollout"]["failedRevision"]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_a_wish_that_is_taken_back_at_any_time(world: World, seconds: float) -> None:
    before = identities(world)
    pin(world, 2)
    world.advance(seconds)
    pin(world, 1)
    world.advance(10.0)
    until_served(world, 1)
    assert identities(world) == before


def test_a_version_without_room_beside_the_old_one_gets_pods_of_its_own(world: World) -> None:
    before = identities(world)
    pin(world, 4)
    world.until(lambda: "" if status(world)["stable"]["version"] == 4 else "rolling", 120.0)
    world.advance(10.0)
    assert answers(world) == [4, 4, 4]
    assert not identities(world) & before
    assert status(world)["rollout"]["strategy"] == "Surge"
    assert "no room in memory" in status(world)["rollout"]["strategyReason"]


def test_while_the_operator_is_away_pods_do_what_they_were_told_and_new_ones_come_up_right(world: World) -> None:
    pin(world, 2)
    config = world.cluster.all(CONFIGMAPS, **{names.LABEL_POOL: "pool-a"})[0]["metadata"]

    def told() -> str:
        found = world.cluster.get(CONFIGMAPS, config["namespace"], config["name"])
        changed = found["metadata"]["resourceVersion"] != config["resourceVersion"]
        return "" if changed else "it begins"

    world.until(told, 10, step=0.01)
    world.kill(0, away=300.0)  # no pod was edited: the kubelets look by themselves
    world.cluster.delete(PODS, manifests.key(pods(world)[0]["metadata"]["name"]), "user")
    world.invariants.disturb(POOL)
    world.advance(200.0)
    assert answers(world) == [2, 2, 2]
    assert not [pod for pod in pods(world) if names.LABEL_ASSIGNMENT in labels_of(pod)]
    assert status(world)["stable"]["version"] == 1, "nobody is there to tell"
    until_served(world, 2, 300.0)


def test_a_pod_that_is_cut_off_is_waited_for_as_long_as_it_counts(world: World) -> None:
    (node,) = {pod["spec"]["nodeName"] for pod in pods(world)[:1]}
    world.nodes.lose(node, given_up_after=60.0)
    pin(world, 2)
    world.advance(40.0)
    assert status(world)["stable"]["version"] == 1
    assert status(world)["phase"] == "RollingOut"
    world.invariants.disturb(POOL)
    world.nodes.recover(node)
    until_served(world, 2, 180.0)
