"""Shadows as stories: whatever is interrupted, nobody gets an answer of what is only tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import DEPLOYMENTS, PODS, SERVICES
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready, labels_of
from tests.sim.machine import settle
from tests.sim.test_canaries import POOL, status
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

ROLLOUT = manifests.ROLLOUTS["Shadow"]


@pytest.fixture
def world() -> Iterator[World]:
    """A pool of four pods behind a gateway; of gpt there are 1, which is served, 2, 3 (does not load) and 4 (fails)."""
    world = World(seed=1)
    try:
        world.programs.unloadable.add("pvc://models/gpt/3/unloadable")
        world.programs.faulty.add("pvc://models/gpt/4/faulty")
        for number, quality in ((1, "good"), (2, "good"), (3, "unloadable"), (4, "faulty")):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/{quality}")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        spec = {**manifests.pool_spec("gpt", version=1, replicas=4), "rollout": ROLLOUT, "gateway": {"mode": "Envoy"}}
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        world.until(lambda: "" if status(world).get("phase") == "Serving" else "it starts", 60)
        world.advance(30.0)
        yield world
        settle(world)
    finally:
        world.close()


def answers(world: World) -> list[int]:
    """The version that each ready pod answers from that clients can be led to: all Services lead to `serve`."""
    pods = world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a", names.LABEL_ROLE: names.ROLE_SERVE})
    served = [
        world.programs.served(pod) for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
    ]
    return sorted(found["version"] for found in served if found is not None)


def copies(world: World) -> list[Body]:
    return world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a", names.LABEL_ROLE: names.ROLE_SHADOW})


def pin(world: World, number: int) -> None:
    wish = {"models": [{"name": "gpt", "version": number}]}
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": wish}, "user", resource_version=None)


def until(world: World, phase: str, version: int, seconds: float) -> None:
    """Until the pool is there; meanwhile the version that is only tried answers nobody."""

    def missing() -> str:
        found = status(world)
        if (found.get("rollout") or {}).get("strategy") == "Shadow":
            assert set(answers(world)) <= {found["stable"]["version"]}, answers(world)
        there = (found["phase"], found["stable"]["version"]) == (phase, version)
        return "" if there else f"{found['phase']} {found.get('rollout')}"

    world.until(missing, seconds, step=0.2)
    world.advance(60.0)
    assert answers(world) == [version] * 4
    assert copies(world) == []
    sets = [each for each in world.cluster.all(DEPLOYMENTS) if not each["metadata"]["name"].endswith("-gateway")]
    assert len(sets) == 1
    assert len(world.cluster.all(SERVICES)) == 3, "the pool's, that of all pods, that of the one set"


def test_tried_and_then_served(world: World) -> None:
    written = sum(world.invariants.writes.values())
    pin(world, 2)
    world.until(lambda: "" if len([pod for pod in copies(world) if is_ready(pod)]) == 2 else "it begins", 60)
    assert {labels_of(pod)[names.LABEL_ROLE] for pod in copies(world)} == {names.ROLE_SHADOW}
    until(world, "Serving", 2, 200)
    change = status(world)["rollout"]
    assert (change["phase"], change["analysis"][0]["outcome"]) == ("Complete", "Passed")
    assert sum(world.invariants.writes.values()) - written <= 44


@pytest.mark.parametrize("writes", range(1, 22, 2))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    pin(world, 2)
    until(world, "Serving", 2, 300)


@pytest.mark.parametrize("writes", [0, 6, 9, 12])
def test_one_that_fails_is_taken_back_by_whoever_leads(world: World, writes: int) -> None:
    if writes:
        world.crash_after_writes(0, writes)
    pin(world, 4)
    until(world, "Degraded", 1, 300)
    change = status(world)["rollout"]
    assert (change["reason"], change["analysis"][0]["outcome"]) == ("AnalysisFailed", "Failed")


def test_one_that_does_not_load_is_taken_back(world: World) -> None:
    pin(world, 3)
    until(world, "Degraded", 1, 120)


@pytest.mark.parametrize("seconds", [1.0, 5.0, 20.0, 50.0, 70.0])
def test_a_wish_that_is_taken_back_at_any_time(world: World, seconds: float) -> None:
    pin(world, 2)
    world.advance(seconds)
    pin(world, 1)
    until(world, "Serving", 1, 120)
