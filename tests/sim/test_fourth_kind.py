"""A kind that the simulator has never heard of is simulated from its declaration, under faults and crashes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aifactory.kube.resources import PODS, Key
from tests.sim import manifests
from tests.sim.operator import SIM_DOMAINS
from tests.sim.world import World
from tests.support.herd import HERDS, Herds


@pytest.fixture(params=[1, 2])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(seed=request.param, replicas=request.param, lease_seconds=15.0, kinds=(*SIM_DOMAINS, Herds))
    yield world
    world.close()


def wrong(world: World, size: int) -> str:
    """What is not as the herd's spec says; "" when all is."""
    herd = world.cluster.get(HERDS, manifests.NAMESPACE, "h")
    pods = {pod["metadata"]["name"] for pod in world.cluster.all(PODS) if "deletionTimestamp" not in pod["metadata"]}
    status: Any = herd.get("status", {})
    if pods != {f"h-{number}" for number in range(size)}:
        return f"pods {sorted(pods)}"
    if (status.get("observedGeneration"), status.get("pods"), status.get("full")) != (
        herd["metadata"]["generation"],
        size,
        True,
    ):
        return f"status {status}"
    return ""


def test_herds_are_as_declared_through_faults_and_crashes(world: World) -> None:
    world.cluster.create(HERDS, manifests.body("h", {"size": 3}), "user")
    world.until(lambda: wrong(world, 3), 60)
    for process in world.processes:
        process.connection.faults.calls = 0.3
    world.cluster.patch(HERDS, Key(manifests.NAMESPACE, "h"), {"spec": {"size": 5}}, "user", resource_version=None)
    world.crash_after_writes(0, 2)
    world.advance(120)
    world.heal()
    world.until(lambda: wrong(world, 5), 300)
    world.cluster.delete(PODS, Key(manifests.NAMESPACE, "h-2"), "user")
    world.until(lambda: wrong(world, 5), 120)
