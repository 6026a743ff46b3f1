"""Canaries as stories: whatever is interrupted, enough pods answer, and it goes on at the step where it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import DEPLOYMENTS, PODS
from tests.sim import manifests
from tests.sim.cluster import Body, is_ready
from tests.sim.machine import settle
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS

POOL = manifests.key("pool-a")
STEPS = [{"weight": 25}, {"pauseSeconds": 20}, {"weight": 50}, {"pauseSeconds": 10}, {"weight": 100}]


@pytest.fixture
def world() -> Iterator[World]:
    """A pool of four pods that serves version 1 of gpt, of which 2, 3 (does not load), 4 and 5 (fails) are there."""
    world = World(seed=1)
    try:
        world.programs.unloadable.add("pvc://models/gpt/3/unloadable")
        world.programs.faulty.add("pvc://models/gpt/5/faulty")
        for number, quality in ((1, "good"), (2, "good"), (3, "unloadable"), (4, "good"), (5, "faulty")):
            spec = manifests.version_spec("gpt", number, f"pvc://models/gpt/{number}/{quality}")
            world.cluster.create(MODELVERSIONS, manifests.body(f"gpt-v{number}", spec), "user")
        spec = {**manifests.pool_spec("gpt", version=1, replicas=4), "rollout": {"steps": STEPS}}
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        world.until(lambda: "" if status(world).get("phase") == "Serving" else "it starts", 60)
        world.advance(30.0)
        yield world
        settle(world)
    finally:
        world.close()


def status(world: World) -> Body:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL).get("status", {})
    return found


def answers(world: World) -> list[int]:
    """The version that each ready pod answers from."""
    pods = world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"})
    served = [
        world.programs.served(pod) for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
    ]
    return sorted(found["version"] for found in served if found is not None)


def pin(world: World, number: int, **spec: Body) -> None:
    wish = {"models": [{"name": "gpt", "version": number}], **spec}
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": wish}, "user", resource_version=None)


def until_served(world: World, number: int, seconds: float) -> None:
    def missing() -> str:
        found = status(world)
        there = found["stable"]["version"] == number and found["phase"] == "Serving"
        return "" if there else f"{found['phase']} {found.get('rollout')}"

    world.until(missing, seconds, step=0.2)
    world.advance(60.0)
    assert answers(world) == [number] * 4
    assert len(world.cluster.all(DEPLOYMENTS)) == 1


def test_step_by_step(world: World) -> None:
    written = sum(world.invariants.writes.values())
    pin(world, 2)
    world.until(lambda: "" if status(world)["rollout"].get("step") == 1 else "it begins", 60)
    world.advance(10.0)
    assert answers(world) == [1, 1, 1, 2]
    assert status(world)["rollout"]["actualWeight"] == 25
    until_served(world, 2, 120)
    writes = sum(world.invariants.writes.values()) - written
    assert writes <= 34, "of which 12 are Deployments and their ConfigMaps; each step is a status more"


@pytest.mark.parametrize("writes", range(1, 16))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    pin(world, 2)
    until_served(world, 2, 300)


@pytest.mark.parametrize("seconds", [1.0, 8.0, 20.0, 40.0, 60.0])
def test_a_wish_that_is_taken_back_at_any_time(world: World, seconds: float) -> None:
    pin(world, 2)
    world.advance(seconds)
    pin(world, 1)
    until_served(world, 1, 120)


@pytest.mark.parametrize("seconds", [1.0, 8.0, 20.0, 40.0])
def test_another_version_in_the_middle(world: World, seconds: float) -> None:
    pin(world, 2)
    world.advance(seconds)
    pin(world, 4)

    def mixed() -> str:
        assert len(world.cluster.all(DEPLOYMENTS)) <= 2, "first the one is given up, then the other begins"
        return "" if status(world)["stable"]["version"] == 4 else "rolling"

    world.until(mixed, 300, step=0.5)
    until_served(world, 4, 120)


def test_a_version_that_does_not_load_is_taken_back(world: World) -> None:
    pin(world, 3)
    world.until(lambda: "" if status(world)["phase"] == "Degraded" else "changing", 120)
    world.advance(60.0)
    assert answers(world) == [1, 1, 1, 1]


ERRORS = {"metrics": [{"name": "errorRate", "max": "0.05"}], "minSamples": 100}
COMPARING = {"steps": [{"weight": 25}, {"analyzeSeconds": 60}, {"weight": 100}], "analysis": ERRORS}


def until_taken_back(world: World) -> None:
    def missing() -> str:
        found = status(world)
        return "" if found["phase"] == "Degraded" else f"{found['phase']} {found.get('rollout')}"

    world.until(missing, 300)
    change = status(world)["rollout"]
    assert (change["reason"], change["analysis"][0]["outcome"]) == ("AnalysisFailed", "Failed")
    world.advance(60.0)
    assert answers(world) == [1, 1, 1, 1]


def test_one_that_does_as_well_goes_on(world: World) -> None:
    pin(world, 2, rollout=COMPARING)
    until_served(world, 2, 200)
    assert status(world)["rollout"]["analysis"][0]["outcome"] == "Passed"


@pytest.mark.parametrize("writes", [0, *range(4, 15)])
def test_one_that_fails_is_taken_back_by_whoever_leads(world: World, writes: int) -> None:
    if writes:
        world.crash_after_writes(0, writes)
    pin(world, 5, rollout=COMPARING)
    until_taken_back(world)
