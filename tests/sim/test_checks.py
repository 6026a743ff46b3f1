"""Programs that are asked what is in the way, as stories: whatever is interrupted, none trains unasked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS
from tests.sim import manifests
from tests.sim.cluster import Body, is_live
from tests.sim.machine import settle
from tests.sim.programs import Exit
from tests.sim.world import World
from tests.support.kinds import TRAININGJOBS


@pytest.fixture
def world() -> Iterator[World]:
    world = World(seed=1)
    yield world
    try:
        settle(world)
    finally:
        world.close()


def begin(world: World, inputs: str = "data", image: str = "train:1") -> None:
    spec = manifests.job_spec(count=2, inputs=inputs, image=image, check=True)
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")


def status(world: World) -> Body:
    found: Body = world.cluster.get(TRAININGJOBS, manifests.NAMESPACE, "job-a").get("status", {})
    return found


def pods(world: World, role: str) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_ROLE: role}) if is_live(pod)]


def training(world: World) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods(world, names.ROLE_NODE)}


def until_it_runs(world: World, *, attempt: int = 0) -> None:
    def missing() -> str:
        found = status(world)
        there = found.get("phase") == "Running" and found.get("reason") == "AllNodesReady"
        return "" if there and found["attempt"] == attempt else f"{found}"

    world.until(missing, 180)


def until_it_says(world: World, reason: str) -> None:
    world.until(lambda: "" if status(world).get("reason") == reason else f"{status(world)}", 180)


def edit(world: World, **spec: object) -> None:
    world.cluster.patch(TRAININGJOBS, manifests.key("job-a"), {"spec": spec}, "user", resource_version=None)


def take(world: World, image: str) -> None:
    """Have the job run another image."""
    edit(world, template=manifests.job_spec(image=image)["template"])


@pytest.mark.parametrize("writes", range(1, 10))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    begin(world)
    until_it_runs(world)
    assert len(training(world)) == 2


def test_a_bad_option_is_told_before_a_pod_trains_and_a_mended_one_goes_on(world: World) -> None:
    begin(world, image=manifests.BAD_OPTION)
    until_it_says(world, "CheckFailed")
    world.advance(3600)
    assert training(world) == set()
    assert pods(world, names.ROLE_CHECK) == []
    take(world, "train:2")
    until_it_runs(world)


def test_pods_run_on_beside_an_edit_that_would_end_them(world: World) -> None:
    begin(world)
    until_it_runs(world)
    before = training(world)
    take(world, manifests.BAD_OPTION)
    until_it_says(world, "CheckFailed")
    world.advance(300)
    assert training(world) == before
    take(world, "train:2")
    until_it_runs(world, attempt=1)
    assert not training(world) & before


def test_restarts_are_not_checked_again(world: World) -> None:
    begin(world)
    until_it_runs(world)
    world.nodes.fail(pods(world, names.ROLE_NODE)[0], Exit(1, "Error", "loss is nan"))
    world.until(lambda: "" if status(world)["attempt"] == 1 else "no restart", 60)
    seen: list[Body] = []

    def runs() -> str:
        seen.extend(pods(world, names.ROLE_CHECK))
        return "" if status(world).get("reason") == "AllNodesReady" else f"{status(world)}"

    world.until(runs, 180, step=0.05)
    assert seen == []


def test_a_suspended_job_has_no_pod_that_checks(world: World) -> None:
    world.programs.large = 1.0
    begin(world, inputs="")
    world.until(lambda: "" if pods(world, names.ROLE_CHECK) else "no pod checks", 30, step=0.5)
    edit(world, suspend=True)
    world.advance(30)
    assert pods(world, names.ROLE_CHECK) == []
    edit(world, suspend=False)
    until_it_runs(world)
