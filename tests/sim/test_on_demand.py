"""Pools whose models have no room beside each other, as stories: all of them are served whatever is interrupted, and
the status says which are loaded."""

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
ROOM = 64 * 1024**2 + 2500
"""Bytes beside which Triton has its own; a model takes 1000."""


@pytest.fixture
def world() -> Iterator[World]:
    """Three pods with room for two of gpt, bert and t5; of gpt there are 2, and 3, which does not load."""
    world = World(seed=1)
    try:
        world.programs.unloadable.add("pvc://models/gpt/3/unloadable")
        versions = [("gpt", 1, "good"), ("gpt", 2, "good"), ("gpt", 3, "unloadable"), ("bert", 1, "good")]
        for model, number, quality in [*versions, ("t5", 1, "good")]:
            spec = manifests.version_spec(model, number, f"pvc://models/{model}/{number}/{quality}")
            spec["format"] = "huggingface"
            world.cluster.create(MODELVERSIONS, manifests.body(f"{model}-v{number}", spec), "user")
        spec = manifests.pool_spec("gpt", version=1, replicas=3)
        spec |= {"models": models(1), "loading": {"mode": "OnDemand"}}
        limits = {"limits": {"memory": str(ROOM)}}
        spec["template"] = {"spec": {"containers": [{"name": "triton", "resources": limits}]}}
        world.cluster.create(INFERENCEPOOLS, manifests.body("pool-a", spec), "user")
        until(world, gpt=1)
        yield world
        settle(world)
    finally:
        world.close()


def models(gpt: int) -> list[Body]:
    return [{"name": name, "version": gpt if name == "gpt" else 1} for name in ("gpt", "bert", "t5")]


def wish(world: World, gpt: int) -> None:
    patch = {"spec": {"models": models(gpt)}}
    world.cluster.patch(INFERENCEPOOLS, POOL, patch, "user", resource_version=None)


def told(world: World) -> dict[str, Body]:
    found: Body = world.cluster.get(INFERENCEPOOLS, *POOL).get("status", {})
    return {each["name"]: each for each in found.get("models", ())}


def until(world: World, *, gpt: int, state: str = "Serving") -> None:
    def missing() -> str:
        found = {name: (each["state"], each.get("version")) for name, each in told(world).items()}
        return "" if found == {"gpt": (state, gpt), "bert": ("Serving", 1), "t5": ("Serving", 1)} else str(found)

    world.until(missing, 240.0, step=0.2)


def pods(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_POOL: "pool-a"}) if is_ready(pod)]


def identities(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(world)}


def resident(world: World) -> dict[str, int]:
    return {name: each.get("residentReplicas", 0) for name, each in told(world).items()}


def test_the_status_follows_what_is_loaded_and_nothing_else_moves(world: World) -> None:
    before = identities(world)
    first, *_ = pods(world)
    for model in ("gpt", "bert"):
        for pod in pods(world):
            world.programs.use(pod, model)
    taken = {name: each["readyReplicas"] for name, each in told(world).items()}
    world.until(lambda: "" if resident(world) == expected(world) else str(resident(world)), 60.0, step=0.5)
    world.programs.use(first, "t5")
    world.until(lambda: "" if resident(world) == expected(world) else str(resident(world)), 60.0, step=0.5)
    assert resident(world)["t5"] == 1
    assert {name: each["readyReplicas"] for name, each in told(world).items()} == taken
    assert identities(world) == before


def expected(world: World) -> dict[str, int]:
    """In how many pods each model is loaded."""
    agents = [world.programs.agents[pod["metadata"]["uid"]] for pod in pods(world)]
    return {name: sum(name in agent.resident for agent in agents) for name in ("gpt", "bert", "t5")}


def test_one_changes_in_the_same_pods(world: World) -> None:
    before = identities(world)
    wish(world, gpt=2)
    until(world, gpt=2)
    assert identities(world) == before


def test_one_that_does_not_load_is_taken_back(world: World) -> None:
    before = identities(world)
    wish(world, gpt=3)
    until(world, gpt=1, state="Failed")
    assert identities(world) == before


@pytest.mark.parametrize("writes", range(1, 8))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    wish(world, gpt=2)
    until(world, gpt=2)
