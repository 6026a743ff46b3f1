"""What a pool's GPUs come to: seconds, idle ones, those of a change; and when a status is written for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aifactory.api.cost import PoolUse
from aifactory.api.inferencepool import InferencePoolStatus, Throughput
from aifactory.serving.economics import follow
from tests.unit.serving.builders import World, serving

GPU = {"spec": {"containers": [{"name": "triton", "resources": {"limits": {"nvidia.com/gpu": 2}}}]}}
PRICE = {"gpuHourPrice": "3.60"}
"""A tenth of a cent a second."""
BUSY = Throughput(requests_per_second="4", tokens_per_second="800")
IDLE = Throughput()


def of_gpus(**spec: Any) -> World:
    """A pool of two pods with two GPUs each, all on nodes."""
    return serving(template=GPU, cost=PRICE, **spec)


def use(world: World) -> PoolUse:
    assert world.status.cost is not None
    return world.status.cost


def test_a_pool_that_answers() -> None:
    world = of_gpus()
    world.throughput = BUSY
    world.settle()
    assert (use(world).gpus, use(world).idle, use(world).gpu_hour_price) == (4, False, "3.60")
    figures = world.status.throughput
    assert figures is not None
    assert figures.tokens_per_second_per_gpu == "200"
    assert figures.cost_per_million_tokens == "5.00"  # 0.004 a second, and 1,250 s for a million
    assert figures.cost_per_million_requests is None


def test_a_model_without_tokens() -> None:
    world = of_gpus()
    world.throughput = Throughput(requests_per_second="4")
    world.settle()
    figures = world.status.throughput
    assert figures is not None
    assert (figures.cost_per_million_tokens, figures.tokens_per_second_per_gpu) == (None, None)
    assert figures.cost_per_million_requests == "1000.00"


def test_idle_seconds_are_told_when_they_end_and_nothing_is_written_meanwhile() -> None:
    world = of_gpus()
    world.throughput = BUSY
    world.settle()
    world.wait(100)
    world.throughput = IDLE
    world.settle()
    assert (use(world).idle, use(world).gpu_seconds, use(world).idle_gpu_seconds) == (True, 400, 0)
    for _ in range(5):
        world.wait(1000)
        before = world.status
        assert world.step().status == before
    world.throughput = BUSY
    world.settle()
    assert (use(world).idle, use(world).idle_gpu_seconds, use(world).gpu_seconds) == (False, 20_000, 20_400)
    assert (use(world).idle_cost, use(world).cost) == ("20.00", "20.40")


def test_what_is_not_measured_is_not_idle() -> None:
    world = of_gpus()
    assert (use(world).idle, world.status.throughput) == (None, None)


@pytest.mark.parametrize("some", [Throughput(requests_per_second="4"), Throughput(tokens_per_second="9")], ids=str)
def test_either_figure_says_that_somebody_is_answered(some: Throughput) -> None:
    world = of_gpus()
    world.throughput = some
    world.settle()
    assert use(world).idle is False


def test_pods_without_a_node_and_those_that_their_node_refused_hold_nothing() -> None:
    world = of_gpus()
    observed = world.observed()
    first, second = observed.pods
    for other, held in ((second, 4), (replace(second, node=""), 2), (replace(second, refused_by_node=True), 2)):
        now = follow(replace(observed, pods=(first, other)), world.status, 2, world.now)
        assert now is not None
        assert now.gpus == held


def test_times_are_whole_seconds_as_the_api_server_keeps_them() -> None:
    world = of_gpus()
    world.edit(cost={"gpuHourPrice": "1"})
    world.wait(10.7)
    world.settle()
    assert (use(world).gpu_hour_price, use(world).since.microsecond) == ("1", 0)


def test_a_pool_without_pods_keeps_its_sums() -> None:
    world = of_gpus()
    world.wait(100)
    world.edit(replicas=0)
    world.settle()
    world.wait(100)
    world.bury()
    world.settle()
    assert use(world).gpus == 0
    assert use(world).gpu_seconds >= 400


def test_pods_that_load_are_idle() -> None:
    world = World(of_gpus().pool.model_copy(update={"status": InferencePoolStatus()}))
    world.publish(1)
    world.settle()
    world.wait(60)
    world.load(2)
    assert (use(world).idle_gpu_seconds, use(world).gpu_seconds) == (240, 240)


def test_what_a_change_of_versions_cost() -> None:
    world = of_gpus(rollout={"strategy": "Surge"})
    assert (use(world).surge_revision, use(world).surge_cost) == ("", "0.00")
    world.publish(2)
    world.settle()
    assert use(world).surge == 2
    world.wait(300)
    world.load(1)
    world.bury()
    world.settle()
    world.wait(100)
    world.load(1)
    assert world.status.version == "2"
    world.wait(30)  # the last of the pods before drains
    world.bury()
    world.settle()
    assert (use(world).surge, use(world).surge_revision) == (0, world.revision(2))
    assert use(world).surge_gpu_seconds in range(860, 1000)
    told = use(world).surge_gpu_seconds
    world.publish(3)
    world.settle()
    assert use(world).surge_gpu_seconds == 0, "of the change that is under way"
    assert told > 0


def test_a_pool_that_is_made_larger_has_no_surge() -> None:
    world = of_gpus()
    world.edit(replicas=5)
    world.settle()
    assert (use(world).gpus, use(world).surge) == (10, 0)


def test_a_price_that_comes_later_counts_for_all_sums() -> None:
    world = serving(template=GPU)
    world.wait(1000)
    world.throughput = BUSY
    world.settle()
    assert (use(world).gpu_seconds, use(world).cost, use(world).gpu_hour_price) == (4000, None, None)
    assert world.status.throughput is not None
    assert world.status.throughput.cost_per_million_tokens is None
    world.edit(cost=PRICE)
    world.settle()
    assert (use(world).cost, world.status.throughput.cost_per_million_tokens) == ("4.00", "5.00")


@pytest.mark.parametrize("spec", [{}, {"cost": PRICE}], ids=["no price", "a price"])
def test_without_gpus_there_is_nothing_to_tell(spec: dict[str, Any]) -> None:
    world = serving(**spec)
    world.throughput = BUSY
    world.settle()
    assert world.status.cost is None
    assert world.status.throughput == BUSY
