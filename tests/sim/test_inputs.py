"""Inputs of jobs, as stories: whatever is interrupted, no pod trains without them, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aifactory.api import names
from aifactory.kube.resources import PODS, PVCS
from tests.sim import manifests
from tests.sim.cluster import Body, is_live
from tests.sim.machine import settle
from tests.sim.programs import Exit
from tests.sim.world import World
from tests.support.kinds import MODELVERSIONS, TRAININGJOBS


@pytest.fixture
def world() -> Iterator[World]:
    world = World(seed=1)
    yield world
    try:
        settle(world)
    finally:
        world.close()


def begin(world: World, inputs: str = "data") -> None:
    spec = manifests.job_spec(count=2, inputs=inputs)
    world.cluster.create(TRAININGJOBS, manifests.body("job-a", spec), "user")


def status(world: World) -> Body:
    found: Body = world.cluster.get(TRAININGJOBS, manifests.NAMESPACE, "job-a").get("status", {})
    return found


def live(world: World, role: str = names.ROLE_NODE) -> list[Body]:
    return [pod for pod in world.cluster.all(PODS, **{names.LABEL_ROLE: role}) if is_live(pod)]


def until_it_runs(world: World, *, attempt: int = 0) -> None:
    def missing() -> str:
        found = status(world)
        there = found.get("phase") == "Running" and found.get("reason") == "AllNodesReady"
        return "" if there and found["attempt"] == attempt else f"{found}"

    world.until(missing, 180)


def edit(world: World, spec: Body) -> None:
    world.cluster.patch(TRAININGJOBS, manifests.key("job-a"), {"spec": spec}, "user", resource_version=None)


@pytest.mark.parametrize("writes", range(1, 9))
def test_an_operator_that_is_killed_after_any_write_goes_on(world: World, writes: int) -> None:
    world.crash_after_writes(0, writes)
    begin(world)
    until_it_runs(world)
    assert len(live(world)) == 2


def test_pods_run_on_until_what_an_edit_asks_for_is_there(world: World) -> None:
    begin(world)
    until_it_runs(world)
    before = {pod["metadata"]["uid"] for pod in live(world)}
    world.programs.store_away = True
    edit(world, {"inputs": manifests.INPUTS["other data"]})
    world.advance(300)
    assert {pod["metadata"]["uid"] for pod in live(world)} == before
    assert status(world)["reason"] == "StoreUnavailable"
    world.programs.store_away = False
    until_it_runs(world, attempt=1)


def test_a_job_that_fails_beside_an_edit_that_can_not_be_had_holds_no_node(world: World) -> None:
    begin(world)
    until_it_runs(world)
    world.programs.bad_artifacts[manifests.BAD_INPUT] = "InvalidArtifact"
    edit(world, {"inputs": manifests.INPUTS["bad"]})
    world.advance(60)
    assert len(live(world)) == 2
    world.nodes.fail(live(world)[0], Exit(1, "Error", "loss is nan"))
    world.advance(60)
    assert live(world) == []
    assert status(world)["reason"] == "InvalidArtifact"


def test_files_that_are_not_what_an_edit_says_they_are_stop_no_pod(world: World) -> None:
    begin(world)
    until_it_runs(world)
    before = {pod["metadata"]["uid"] for pod in live(world)}
    world.programs.bad_artifacts["s3://data/1"] = "InvalidArtifact"
    edit(world, {"inputs": manifests.INPUTS["chat"]})
    world.advance(300)
    assert {pod["metadata"]["uid"] for pod in live(world)} == before
    assert status(world)["reason"] == "InvalidArtifact"
    del world.programs.bad_artifacts["s3://data/1"]
    again = {"metadata": {"annotations": {names.ANNOTATION_RETRY: "the line is right now"}}}
    world.cluster.patch(TRAININGJOBS, manifests.key("job-a"), again, "user", resource_version=None)
    until_it_runs(world, attempt=1)


def test_inputs_that_are_thrown_away_are_fetched_again_before_the_next_attempt(world: World) -> None:
    begin(world)
    until_it_runs(world)
    key = manifests.key(names.INPUT_CLAIM)
    claim = world.cluster.get(PVCS, *key)["metadata"]["uid"]
    world.cluster.delete(PVCS, key, "user")
    world.advance(30)
    assert len(live(world)) == 2, "the claim is held as long as they run"
    world.nodes.fail(live(world)[0], Exit(1, "Error", "loss is nan"))
    until_it_runs(world, attempt=1)
    assert world.cluster.get(PVCS, *key)["metadata"]["uid"] != claim


def test_a_job_waits_for_its_base_model_and_goes_on_by_itself(world: World) -> None:
    begin(world, "base")
    world.advance(600)
    assert live(world) == []
    assert live(world, names.ROLE_INPUT) == []
    version = manifests.version_spec("bert", 1, "pvc://models/bert/1/good")
    world.cluster.create(MODELVERSIONS, manifests.body("bert-v1", version), "user")
    until_it_runs(world)


def test_a_suspended_job_has_no_pod_that_fetches(world: World) -> None:
    world.programs.large = 1.0
    begin(world)
    world.until(lambda: "" if live(world, names.ROLE_INPUT) else "no pod fetches", 30, step=0.5)
    edit(world, {"suspend": True})
    world.advance(30)
    assert live(world, names.ROLE_INPUT) == []
    edit(world, {"suspend": False})
    until_it_runs(world)
