"""Defects that are known and not mended yet, each as the shortest story that shows it.

Every test here is expected to fail. Whoever mends a defect moves its story to `test_regressions.py` and, where it names
a switch of `machine.py`, sets that: from then on the state machine looks for it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS, Resource
from tests.sim import manifests, strangers
from tests.sim.cluster import Body, is_ready
from tests.sim.programs import SUCCESS
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS


@pytest.fixture
def world() -> Iterator[World]:
    world = World(seed=1)
    yield world
    world.close()


def known(why: str) -> Any:
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=why)


def status(world: World, resource: Resource, name: str) -> Body:
    found: Body = world.cluster.get(resource, manifests.NAMESPACE, name).get("status", {})
    return found


def create(world: World, resource: Resource, name: str, spec: Body) -> Body:
    return world.cluster.create(resource, manifests.body(name, spec), "user")


def succeed(world: World) -> None:
    for pod in world.cluster.all(PODS, **{names.LABEL_ROLE: names.ROLE_NODE}):
        world.nodes.fail(pod, SUCCESS)


def test_a_pod_in_another_namespace_does_not_publish_for_a_job(world: World) -> None:
    job = create(world, TRAININGJOBS, "job-a", manifests.job_spec(model="gpt"))
    world.advance(20)
    strangers.task_abroad(world.cluster, job, manifests.OTHER)
    world.until(lambda: "" if _succeeded(world) else "it has not answered", 5, step=0.1)
    succeed(world)
    world.advance(30)
    uri = world.cluster.get(MODELVERSIONS, manifests.NAMESPACE, "gpt-v1")["spec"]["source"]["uri"]
    assert uri != strangers.EVIL


def test_a_pod_that_only_looks_like_a_serving_pod_does_not_end_a_rollout(world: World) -> None:
    for number in (1, 2):
        uri = f"pvc://models/gpt/{number}/good"
        create(world, MODELVERSIONS, f"gpt-v{number}", manifests.version_spec("gpt", number, uri))
    create(world, INFERENCEPOOLS, "pool-a", manifests.pool_spec("gpt", version=1, replicas=2))
    world.advance(60)
    wish = {"models": [{"name": "gpt", "version": 2}]}
    world.cluster.patch(INFERENCEPOOLS, manifests.key("pool-a"), {"spec": wish}, "user", resource_version=None)
    world.until(lambda: "" if _candidates(world) else "no candidate", 60, step=0.1)
    strangers.pose(world.cluster, _candidates(world)[0], "posing", broken=True)
    world.until(
        lambda: "" if status(world, INFERENCEPOOLS, "pool-a")["stable"]["modelVersion"] == "gpt-v2" else "old", 300
    )


def _succeeded(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, manifests.OTHER) if pod["status"]["phase"] == "Succeeded"]


def _candidates(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_ROLE: names.ROLE_SERVE}) if not is_ready(pod)]
