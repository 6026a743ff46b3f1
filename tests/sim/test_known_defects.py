"""What strangers, nodes and a failing API server do, each as the shortest story that shows it.

Those marked `known` are defects that are not mended yet, and are expected to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS, Resource
from tests.sim import manifests, strangers
from tests.sim.cluster import Body, Breakage, is_ready, labels_of
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
    wish = {"models": [{"name": "gpt", "version": 2}], "rollout": {"strategy": "Surge"}}
    world.cluster.patch(INFERENCEPOOLS, manifests.key("pool-a"), {"spec": wish}, "user", resource_version=None)
    world.until(lambda: "" if _candidates(world) else "no candidate", 60, step=0.1)
    strangers.pose(world.cluster, _candidates(world)[0], "posing", broken=True)
    world.until(
        lambda: "" if status(world, INFERENCEPOOLS, "pool-a")["stable"]["modelVersion"] == "gpt-v2" else "old", 300
    )


def test_a_result_is_not_given_up_because_its_publishers_were_evicted(world: World) -> None:
    create(world, TRAININGJOBS, "job-a", manifests.job_spec(model="gpt"))
    world.advance(20)
    world.programs.store_away = True
    succeed(world)
    world.until(lambda: "" if _publish_attempt(world) == 5 else "not tried five times", 900)
    world.programs.store_away, world.programs.large = False, 1.0
    world.until(lambda: "" if _tasks(world, "Running") else "no publisher", 300)
    world.nodes.evict_for_pressure(_tasks(world, "Running")[0])
    world.until(lambda: "" if status(world, TRAININGJOBS, "job-a")["phase"] == "Succeeded" else "publishing", 900)


@pytest.mark.parametrize("role", [names.ROLE_PUBLISH, names.ROLE_VERIFY])
def test_a_task_that_is_ending_on_a_lost_node_is_replaced(world: World, role: str) -> None:
    world.programs.large = 1.0
    if role == names.ROLE_PUBLISH:
        create(world, TRAININGJOBS, "job-a", manifests.job_spec(model="gpt"))
        world.advance(20)
        succeed(world)
    else:
        create(world, MODELVERSIONS, "gpt-v1", manifests.version_spec("gpt", 1, "pvc://models/gpt/1/good"))
    world.until(lambda: "" if _tasks(world, "Running") else "no task", 60, step=0.1)
    world.nodes.lose(_tasks(world, "Running")[0]["spec"]["nodeName"])
    world.until(lambda: "" if _ready(world, "gpt-v1") else "not Ready", 900)


@pytest.mark.parametrize("how", ["500", "hang"])
def test_a_failure_that_lasts_is_told_after_half_a_minute_and_tried_again_within_one(world: World, how: str) -> None:
    world.cluster.broken = Breakage("create", PODS, how)
    create(world, TRAININGJOBS, "job-a", manifests.job_spec())
    words = "failed calling webhook" if how == "500" else "no answer"

    def told() -> bool:
        conditions = status(world, TRAININGJOBS, "job-a").get("conditions", ())
        return any(words in entry["message"] for entry in conditions if entry["type"] == "Reconciling")

    print(f"{how}: told after {seconds_until(world, told, 40):.0f} s")
    world.mend()
    print(f"{how}: pods {seconds_until(world, lambda: bool(world.cluster.all(PODS)), 61):.0f} s after it was mended")
    world.advance(10)
    conditions = status(world, TRAININGJOBS, "job-a")["conditions"]
    assert not any(words in entry["message"] for entry in conditions), "what has passed is told no more"


def test_what_works_again_after_an_hour_is_noticed_within_a_minute(world: World) -> None:
    world.cluster.broken = Breakage("create", PODS, "hang")
    create(world, TRAININGJOBS, "job-a", manifests.job_spec())
    world.advance(3600)
    world.mend()
    print(f"after an hour: pods {seconds_until(world, lambda: bool(world.cluster.all(PODS)), 61):.0f} s after it")


def seconds_until(world: World, reached: Callable[[], bool], limit: float) -> float:
    started = world.loop.now
    world.until(lambda: "" if reached() else "not yet", limit, step=0.5)
    return world.loop.now - started


def _publish_attempt(world: World) -> int:
    tried: int = status(world, TRAININGJOBS, "job-a").get("output", {}).get("publishAttempt", 0)
    return tried


def _tasks(world: World, phase: str) -> list[Body]:
    roles = (names.ROLE_PUBLISH, names.ROLE_VERIFY)
    tasks = [pod for pod in world.cluster.all(PODS) if labels_of(pod).get(names.LABEL_ROLE) in roles]
    return [pod for pod in tasks if pod["status"]["phase"] == phase]


def _ready(world: World, name: str) -> bool:
    found = world.cluster.find(MODELVERSIONS, manifests.NAMESPACE, name)
    conditions = found.get("status", {}).get("conditions", ()) if found is not None else ()
    return any((entry["type"], entry["status"]) == ("Ready", "True") for entry in conditions)


def _succeeded(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, manifests.OTHER) if pod["status"]["phase"] == "Succeeded"]


def _candidates(world: World) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_ROLE: names.ROLE_SERVE}) if not is_ready(pod)]
