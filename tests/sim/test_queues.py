"""Jobs in a queue of Kueue's, as stories: whatever is interrupted, no pod is made without quota, or outlives it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS, WORKLOADS
from tests.sim import manifests
from tests.sim.cluster import Body, is_live, labels_of
from tests.sim.machine import settle
from tests.sim.programs import SUCCESS, Exit
from tests.sim.world import World
from tests.support.kinds import TRAININGJOBS


@pytest.fixture
def world() -> Iterator[World]:
    world = World(seed=1, quota=2)
    yield world
    try:
        settle(world)
    finally:
        world.close()


def begin(world: World, job: str, **spec: object) -> None:
    body = manifests.body(job, manifests.job_spec(**{"count": 2, **spec}))  # type: ignore[arg-type]
    body["metadata"]["labels"] = {names.KUEUE_QUEUE: "training"}
    world.cluster.create(TRAININGJOBS, body, "user")


def status(world: World, job: str) -> Body:
    found: Body = world.cluster.get(TRAININGJOBS, manifests.NAMESPACE, job).get("status", {})
    return found


def live(world: World, job: str) -> list[Body]:
    mine = {names.LABEL_ROLE: names.ROLE_NODE, names.LABEL_JOB: job}
    return [pod for pod in world.cluster.all(PODS, **mine) if is_live(pod)]


def until(world: World, job: str, phase: str, seconds: float = 300) -> None:
    world.until(lambda: "" if status(world, job).get("phase") == phase else f"{status(world, job)}", seconds)


def edit(world: World, spec: Body) -> None:
    world.cluster.patch(TRAININGJOBS, manifests.key("job-a"), {"spec": spec}, "user", resource_version=None)


def end_well(world: World, job: str) -> None:
    for pod in live(world, job):
        world.nodes.fail(pod, SUCCESS)
    until(world, job, "Succeeded")


@pytest.mark.parametrize("writes", range(1, 16))
def test_two_jobs_take_turns_though_the_operator_is_killed_after_any_write(world: World, writes: int) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    begin(world, "job-b")
    until(world, "job-b", "Queued")
    assert live(world, "job-b") == []
    world.crash_after_writes(0, writes)
    world.queues.preempt("job-a")
    until(world, "job-b", "Running")
    assert live(world, "job-a") == []
    until(world, "job-a", "Queued")
    assert status(world, "job-a")["reason"] == "Preempted"
    end_well(world, "job-b")
    until(world, "job-a", "Running")
    assert status(world, "job-a").get("restarts", {}).get("total", 0) == 0
    assert all(pod["spec"]["nodeSelector"] == {"gpu": "yes"} for pod in live(world, "job-a"))
    assert len(live(world, "job-a")) == 2


@pytest.mark.parametrize("lag", [0.5, 5.0, 40.0])
def test_an_old_view_of_the_queue_makes_no_pod_without_quota(world: World, lag: float) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    begin(world, "job-b")
    world.processes[0].connection.faults.lag[WORKLOADS] = lag
    world.queues.preempt("job-a")
    until(world, "job-b", "Running", 600)
    world.queues.preempt("job-b")
    until(world, "job-a", "Running", 600)
    assert live(world, "job-b") == []
    world.processes[0].connection.heal()
    end_well(world, "job-a")
    until(world, "job-b", "Running", 600)


def test_a_preemption_in_the_middle_of_a_restart(world: World) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    begin(world, "job-b")
    world.nodes.fail(live(world, "job-a")[0], Exit(1, "Error", "loss is nan"))
    world.queues.preempt("job-a")
    until(world, "job-b", "Running")
    end_well(world, "job-b")
    until(world, "job-a", "Running")


def test_a_job_that_is_made_larger_waits_for_what_it_has_become(world: World) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    world.queues.quota = 3
    edit(world, {"nodes": {"count": 3}})
    world.until(lambda: "" if len(live(world, "job-a")) == 3 else f"{status(world, 'job-a')}", 300)
    until(world, "job-a", "Running")
    assert world.queues.used() == 3


def test_a_suspended_job_lets_the_next_one_in(world: World) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    begin(world, "job-b")
    edit(world, {"suspend": True})
    until(world, "job-b", "Running")
    assert status(world, "job-a")["phase"] == "Suspended"
    edit(world, {"suspend": False})
    until(world, "job-a", "Queued")
    end_well(world, "job-b")
    until(world, "job-a", "Running")


def test_a_deleted_job_frees_its_quota(world: World) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    begin(world, "job-b")
    world.cluster.delete(TRAININGJOBS, manifests.key("job-a"), "user")
    until(world, "job-b", "Running")
    assert [labels_of(found)[names.LABEL_JOB] for found in world.cluster.all(WORKLOADS)] == ["job-b"]


def test_a_deleted_workload_stops_its_job_which_asks_anew(world: World) -> None:
    begin(world, "job-a")
    until(world, "job-a", "Running")
    before = world.queues.of("job-a")["metadata"]["uid"]
    world.cluster.delete(WORKLOADS, manifests.key(world.queues.of("job-a")["metadata"]["name"]), "user")
    world.until(lambda: "" if status(world, "job-a")["attempt"] else "still the first", 300)
    until(world, "job-a", "Running")
    assert world.queues.of("job-a")["metadata"]["uid"] != before
