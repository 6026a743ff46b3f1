"""An upgrade of the installation, and children that others have changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aifactory.api.inferencepool import InferencePool
from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import Key
from aifactory.models.domain import Models
from aifactory.serving.domain import Serving
from aifactory.serving.shape import revision_of
from aifactory.serving.state import Settings
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS
from tests.unit.plans import created, repairs
from tests.unit.serving.builders import SETTINGS, World, guard, serving, version
from tests.unit.serving.builders import pool as new_pool

NEWER = replace(SETTINGS, server_image="aifactory/server:2")


def upgraded(world: World, *, may_upgrade: bool) -> None:
    world.settings, world.may_upgrade = NEWER, may_upgrade


@pytest.mark.parametrize(("shape", "revision"), [("v1", "v1-69aa07be"), ("v2", "v2-78d4901a-ff95f5d0")])
def test_pods_are_found_again_under_the_names_that_earlier_releases_gave_them(shape: str, revision: str) -> None:
    """Another name for the same would change over every pool of every installation."""
    assert revision_of(new_pool(), version(1), "aifactory/server:1", shape) == revision


def image(world: World) -> str:
    assert world.status.stable is not None
    return world.status.stable.image


def test_a_pool_waits_for_its_turn_and_then_rolls_as_for_any_change() -> None:
    world = serving(replicas=2)
    guard(world)
    upgraded(world, may_upgrade=False)
    world.settle()
    assert (len(world.deployments), image(world), world.status.phase) == (1, SETTINGS.server_image, "Serving")
    world.may_upgrade = True
    world.roll_out()
    assert (len(world.deployments), image(world), world.status.phase) == (1, NEWER.server_image, "Serving")


def test_what_the_user_changes_does_not_wait_for_a_turn() -> None:
    world = serving(replicas=2)
    upgraded(world, may_upgrade=False)
    world.publish(2)
    world.roll_out()
    assert (world.status.version, image(world)) == ("2", NEWER.server_image)


def test_a_first_version_does_not_wait_for_a_turn() -> None:
    world = World(new_pool(), may_upgrade=False)
    world.publish(1)
    world.settle()
    assert len(world.live(1)) == 2


def test_scaling_goes_on_while_a_pool_waits_and_a_lost_deployment_is_made_as_it_was() -> None:
    world = serving(replicas=2)
    (before,) = world.deployments
    upgraded(world, may_upgrade=False)
    world.edit(replicas=3)
    world.roll_out()
    assert world.status.ready_replicas == 3
    world.deployments.clear()
    world.roll_out()
    assert list(world.deployments) == [before]


def test_an_upgrade_of_the_agent_alone_changes_no_pool() -> None:
    world = serving()
    world.settings = replace(SETTINGS, agent_image="aifactory/agent:2")
    assert not world.settle().writes


def test_a_service_somebody_has_edited_is_put_back() -> None:
    world = serving()
    assert world.service is not None
    world.service = replace(world.service, edits="abc")
    (again,) = repairs(world.step())
    assert (again.kind, again.uid) == ("Service", world.service.uid)
    assert not world.settle().writes


def test_a_budget_comes_with_an_upgrade_and_is_put_back() -> None:
    world = serving()
    world.budget = None
    assert created(world.step()) == ["PodDisruptionBudget chat-serving"]
    assert world.budget is not None
    world.budget = replace(world.budget, edits="abc")
    (again,) = repairs(world.step())
    assert (again.kind, again.uid) == ("PodDisruptionBudget", world.budget.uid)
    assert not world.settle().writes


def test_a_deployment_somebody_has_edited_is_put_back_and_keeps_its_pods() -> None:
    world = serving(replicas=3)
    (name,) = world.deployments
    world.deployments[name].child = replace(world.deployments[name].child, edits="abc")
    (again,) = repairs(world.step())
    assert (again.kind, again.body["spec"]["replicas"]) == ("Deployment", 3)
    assert not world.settle().writes


def test_a_release_that_would_write_another_config_does() -> None:
    world = serving()
    (name,) = world.configs
    view = world.configs[name]
    world.configs[name] = replace(view, child=replace(view.child, stamp="of an earlier release."))
    plan = world.step()
    assert [write.kind for write in repairs(plan)] == ["ConfigMap"]
    assert not created(plan)


# --- Whose turn it is ---


def pool(name: str, image: str, version: int = 1, **status: Any) -> dict[str, Any]:
    stable = {"revision": "v1-abc", "image": image}
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"models": [{"name": "tiny"}]}, "status": {"stable": stable, **status}}


class Installation:
    """Pools in a store, and the queue that shows who is woken."""

    def __init__(self, limit: int = 2) -> None:
        settings = Settings(server_image="new", agent_image="agent", max_concurrent_rollouts=limit)
        self.serving = Serving(settings)
        self.cluster = Cluster([self.serving, Models()])
        self.queue: WorkQueue[Key] = WorkQueue("pools")
        self.cluster.connect({INFERENCEPOOLS: self.queue.add, MODELVERSIONS: lambda *_, **__: None})

    def put(self, body: dict[str, Any]) -> None:
        self.cluster.stored(INFERENCEPOOLS).put(custom.parser(InferencePool)(body))

    def in_turn(self) -> list[str]:
        found = []
        for stored in self.cluster.stored(INFERENCEPOOLS).all():
            model = stored.model
            assert model is not None
            if self.serving.gather(model, self.cluster).may_upgrade:
                found.append(model.metadata.name)
        return sorted(found)

    async def woken(self) -> set[str]:
        names = set()
        while len(self.queue):
            key = await self.queue.get()
            names.add(key.name)
            self.queue.done(key)
        return names


async def test_a_few_roll_at_a_time_and_the_next_one_is_woken_when_one_is_done() -> None:
    found = Installation()
    for name in "abcd":
        found.put(pool(name, "old"))
    await found.woken()
    assert found.in_turn() == ["a", "b"]
    found.put(pool("a", "new", 2))
    assert await found.woken() == {"b", "c"}
    assert found.in_turn() == ["a", "b", "c"], "a is up to date and may do what it likes"


async def test_one_whose_new_pods_do_not_work_holds_up_nobody() -> None:
    found = Installation(limit=1)
    found.put(pool("a", "old", rollout={"phase": "Failed", "failedRevision": "v1-new"}))
    found.put(pool("b", "old"))
    assert found.in_turn() == ["a", "b"], "a has failed and is held back by that"


async def test_a_pool_that_serves_nothing_yet_has_nothing_to_wait_for() -> None:
    found = Installation(limit=1)
    found.put(pool("a", "old"))
    found.put({**pool("b", ""), "status": {}})
    assert found.in_turn() == ["a", "b"]
