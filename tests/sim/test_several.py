"""Pools of two models, as stories: whatever is interrupted, each model is answered by every pod from the version that
is told, one change at a time, and what fails of one leaves the other alone."""

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


@pytest.fixture
def world() -> Iterator[World]:
    """Three pods that serve version 1 of gpt and bert; of both are there 2, 3 (does not load) and 4 (needs room)."""
    world = World(seed=1)
    try:
        for model in ("gpt", "bert"):
            world.programs.unloadable.add(f"pvc://models/{model}/3/unloadable")
            world.programs.large_models.add(f"pvc://models/{model}/4/large")
            for number, quality in ((1, "good"), (2, "good"), (3, "unloadable"), (4, "large")):
                spec = manifests.version_spec(model, number, f"pvc://models/{model}/{number}/{quality}")
                world.cluster.create(MODELVERSIONS, manifests.body(f"{model}-v{number}", spec), "user")
        spec = manifests.pool_spec("gpt", version=1, replicas=3)
        spec["models"] = models(gpt=1, bert=1)
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        until(world, gpt="Serving 1", bert="Serving 1")
        yield world
        settle(world)
    finally:
        world.close()


def models(**numbers: int) -> list[Body]:
    return [{"name": name, "version": number} for name, number in numbers.items()]


def wish(world: World, **numbers: int) -> None:
    world.cluster.patch(INFERENCEPOOLS, POOL, {"spec": {"models": models(**numbers)}}, "user", resource_version=None)


def status(world: World) -> Body:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL).get("status", {})
    return found


def states(world: World) -> dict[str, str]:
    return {each["name"]: f"{each['state']} {each.get('version', 0)}" for each in status(world).get("models", ())}


def until(world: World, seconds: float = 120.0, **expected: str) -> None:
    def missing() -> str:
        found = status(world)
        there = states(world) == expected and (found.get("rollout") or {}).get("phase") == "Complete"
        return "" if there else f"{states(world)} {found.get('rollout')}"

    world.until(missing, seconds, step=0.2)


def pods(world: World) -> list[Body]:
    return world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"})


def identities(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(world)}


def answers(world: World, model: str) -> list[int]:
    """The version of a model that each ready pod answers from."""
    found = [world.programs.answers(pod) for pod in pods(world) if is_ready(pod)]
    return sorted(each[model]["version"] for each in found if model in each)


def test_one_changes_and_the_other_is_answered_as_before(world: World) -> None:
    before = identities(world)
    written = sum(world.invariants.writes.values())
    wish(world, gpt=1, bert=2)
    until(world, gpt="Serving 1", bert="Serving 2")
    world.advance(10.0)
    writes = sum(world.invariants.writes.values()) - written
    assert writes <= 1 + 3 + 2 + 6, "as for a pool of one model: its ConfigMap, three pods, users, and the status"
    assert (answers(world, "gpt"), answers(world, "bert")) == ([1] * 3, [2] * 3)
    assert identities(world) == before


def test_both_change_one_after_the_other(world: World) -> None:
    before = identities(world)
    wish(world, gpt=2, bert=2)
    until(world, gpt="Serving 2", bert="Serving 2")
    assert identities(world) == before


@pytest.mark.parametrize("writes", range(1, 12))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    before = identities(world)
    world.crash_after_writes(0, writes)
    wish(world, gpt=2, bert=2)
    until(world, 240.0, gpt="Serving 2", bert="Serving 2")
    assert identities(world) == before


@pytest.mark.parametrize("writes", range(1, 12))
def test_one_that_is_killed_while_a_version_is_taken_back_goes_on(world: World, writes: int) -> None:
    before = identities(world)
    world.crash_after_writes(0, writes)
    wish(world, gpt=3, bert=2)
    until(world, 240.0, gpt="Failed 1", bert="Serving 2")
    assert (answers(world, "gpt"), answers(world, "bert")) == ([1] * 3, [2] * 3)
    assert identities(world) == before


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_a_wish_that_is_taken_back_at_any_time(world: World, seconds: float) -> None:
    before = identities(world)
    wish(world, gpt=1, bert=2)
    world.advance(seconds)
    wish(world, gpt=1, bert=1)
    until(world, gpt="Serving 1", bert="Serving 1")
    assert identities(world) == before


def test_a_version_without_room_beside_the_old_one_gets_pods_of_its_own(world: World) -> None:
    before = identities(world)
    wish(world, gpt=1, bert=4)
    until(world, 240.0, gpt="Serving 1", bert="Serving 4")
    world.advance(10.0)
    assert not identities(world) & before
    assert status(world)["rollout"]["strategy"] == "Surge"


def test_a_model_comes_and_goes(world: World) -> None:
    before = identities(world)
    spec = manifests.version_spec("t5", 1, "pvc://models/t5/1/good")
    wish(world, gpt=1, bert=1, t5=1)
    until(world, gpt="Serving 1", bert="Serving 1", t5="Waiting 0")
    world.cluster.create(MODELVERSIONS, manifests.body("t5-v1", spec), "user")
    until(world, gpt="Serving 1", bert="Serving 1", t5="Serving 1")
    wish(world, bert=1, t5=1)
    until(world, bert="Serving 1", t5="Serving 1")
    world.advance(10.0)
    assert answers(world, "gpt") == []
    assert identities(world) == before
