"""What a job's GPUs come to: seconds, lost ones, and when a status is written for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aifactory.api.cost import JobUse
from aifactory.training.economics import follow
from aifactory.training.state import Settings
from tests.unit.training.builders import NOW, SETTINGS, World, job, observe, pod, report

GPUS = {"resources": {"limits": {"nvidia.com/gpu": 4}}}
PRICE = {"gpuHourPrice": "3.60"}
"""A tenth of a cent a second."""


def trains(*, settings: Settings = SETTINGS, **spec: Any) -> World:
    """A job whose two pods, with four GPUs each, have taken 10 s to start and run."""
    world = World(job(nodes=2, container=GPUS, **spec), settings=settings)
    world.settle()
    for name in world.pods:
        world.change(name, node="node-a")
    world.settle()
    world.wait(10)
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    return world


def use(world: World) -> JobUse:
    assert world.status.cost is not None
    return world.status.cost


def fail(world: World) -> None:
    """A pod fails, and the next attempt runs after half a minute."""
    world.end(next(name for name, view in world.pods.items() if view.running), 1)
    world.settle()
    world.bury()
    world.settle()
    world.wait(30)
    world.settle()
    world.run_pods()
    world.settle()


def test_a_start_is_lost_and_training_is_not() -> None:
    world = trains(cost=PRICE)
    assert (use(world).gpus, use(world).gpu_seconds, use(world).lost_gpu_seconds) == (8, 80, 80)
    world.wait(990)
    for name in list(world.pods):
        world.end(name, 0)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert (use(world).gpus, use(world).gpu_seconds, use(world).lost_gpu_seconds) == (0, 8000, 80)
    assert (use(world).cost, use(world).lost_cost, use(world).goodput) == ("8.00", "0.0800", "0.99")
    before = world.status
    world.wait(1000)
    world.settle()
    assert world.status == before


def test_nothing_is_written_while_it_runs() -> None:
    world = trains()
    for _ in range(5):
        world.wait(100)
        before = world.status
        assert world.step().status == before


def test_sums_ride_along_with_reports() -> None:
    world = trains()
    world.wait(100)
    world.progress = report(5, at=world.now)
    world.settle()
    assert use(world).gpu_seconds == 880


def test_a_pod_without_a_node_holds_nothing_and_one_that_ended_neither() -> None:
    world = World(job(nodes=2, container=GPUS))
    world.settle()
    world.wait(50)
    world.settle()
    assert world.status.cost is None
    first, second = world.pods
    world.change(first, node="node-a")
    world.settle()
    world.wait(10)
    world.change(second, node="node-a")
    world.settle()
    assert (use(world).gpus, use(world).gpu_seconds) == (8, 40)
    world.run_pods()
    world.end(first, 0)
    world.settle()
    assert (world.status.phase, use(world).gpus) == ("Running", 4)


def test_a_job_that_has_failed_is_not_written_again() -> None:
    world = trains(failurePolicy={"maxRestarts": 0})
    world.end(next(iter(world.pods)), 1)
    world.settle()
    before = world.status
    assert before.phase == "Failed"
    world.wait(1000)
    world.settle()
    assert world.status == before


def test_what_a_restart_throws_away() -> None:
    world = trains()
    world.wait(100)
    saved = world.now
    world.wait(20)
    world.progress = report(5, at=world.now, checkpoint_step=4, checkpoint_time=saved, checkpoint_path="/c/4")
    world.settle()
    assert use(world).unsaved_gpu_seconds == 8 * 20
    world.wait(40)
    before = world.status
    assert world.step().status == before, "the same checkpoint is no news"
    fail(world)
    assert world.status.attempt == 1
    assert use(world).unsaved_gpu_seconds == 0
    assert use(world).lost_gpu_seconds >= 80 + 8 * (20 + 40)
    kept = use(world).gpu_seconds - use(world).lost_gpu_seconds
    assert kept == 8 * 100


def test_what_was_not_saved_is_lost_also_where_nothing_else_changes() -> None:
    """The pods of the new attempt hold as many GPUs, and training has not begun."""
    told = {"since": NOW, "gpus": 4, "gpuSeconds": 100, "trains": False, "unsavedGPUSeconds": 60, "lostGPUSeconds": 7}
    owner = job(container=GPUS, status={"phase": "Pending", "cost": told})
    observed = observe(owner, pod(running=True, of=owner))
    assert follow(observed, owner.status, NOW) == owner.status.cost
    lost = follow(observed, owner.status.model_copy(update={"attempt": 1}), NOW)
    assert lost is not None
    assert (lost.unsaved_gpu_seconds, lost.lost_gpu_seconds) == (0, 67)


def test_without_checkpoints_everything_is_thrown_away() -> None:
    world = trains()
    world.wait(100)
    fail(world)
    assert use(world).lost_gpu_seconds == use(world).gpu_seconds > 800
    assert use(world).goodput == "0"


def test_a_failure_at_the_end_throws_away_what_was_not_saved() -> None:
    world = trains(failurePolicy={"maxRestarts": 0}, cost=PRICE)
    world.wait(100)
    world.end(next(iter(world.pods)), 1)
    world.settle()
    assert (world.status.phase, use(world).gpus) == ("Failed", 0)
    assert use(world).lost_gpu_seconds == use(world).gpu_seconds == 880


def test_the_installations_price() -> None:
    world = trains(settings=replace(SETTINGS, gpu_hour_price="3.60"))
    assert (use(world).gpu_hour_price, use(world).cost) == ("3.60", "0.0800")
    assert use(trains()).cost is None


def test_without_gpus_there_is_nothing_to_tell() -> None:
    world = World(job(cost=PRICE))
    world.settle()
    world.run_pods()
    world.settle()
    assert world.status.cost is None
