"""What one decision writes, how soon it is to be written, and when the next one is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aifactory.engine.apply import Applied
from aifactory.engine.plan import Plan
from aifactory.serving.plan import plan_pool
from aifactory.serving.state import RevisionView
from tests.unit.plans import created, patches, removed
from tests.unit.serving.builders import World, pool, serving

DENIED = {"load_error": "AccessDenied: the store refused the credentials"}
BROKEN = {"load_error": "LoadFailed: no such layer"}


def rolling(replicas: int = 2, done: int = 0) -> World:
    world = serving(1, replicas=replicas)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    return world


def taken_back(trouble: Any = DENIED) -> World:
    world = rolling()
    world.live(2)[0].trouble = trouble
    world.settle()
    return world


def waiting() -> World:
    world = serving(1)
    world.publish(1, ready=False, reason="Gone")
    world.settle()
    return world


def decide(world: World, **changes: Any) -> Plan[Any]:
    """A decision that does not come true, about what is seen, with changes."""
    plan = plan_pool(replace(world.observed(), **changes), world.now)
    assert plan is not None
    return plan


@pytest.mark.parametrize("made", [serving, rolling, taken_back, waiting])
def test_the_address_and_the_budget_are_made_again_whatever_is_under_way(made: Callable[[], World]) -> None:
    world = made()
    world.service = world.budget = None
    assert {"Service chat", "PodDisruptionBudget chat-serving"} <= set(created(world.step()))


def test_one_pod_needs_no_budget_and_a_budget_once_made_stays() -> None:
    world = serving(replicas=1)
    assert world.budget is None
    world.edit(replicas=2)
    assert "PodDisruptionBudget chat-serving" in created(world.step())
    world.edit(replicas=1)
    world.settle()
    assert world.budget is not None
    world.budget = replace(world.budget, edits="abc")
    assert [getattr(write, "uid", None) for write in world.step().writes] == [world.budget.uid]


def test_what_later_steps_build_on_is_written_at_once_and_followed_by_a_step() -> None:
    """A new stable revision, one that is taken back, another try, time that begins again."""
    promoted = rolling(replicas=1)
    promoted.live(2)[0].ready = True
    failed = rolling()
    failed.live(2)[0].trouble = DENIED
    again = taken_back()
    again.wait(60)
    resumed = rolling()
    resumed.wait(1800)
    (candidate,) = (view for view in resumed.observed().revisions if view.revision == resumed.revision(2))
    away = {"revisions": (resumed.observed().revisions[0], replace(candidate, wanted=0))}
    plans = [decide(promoted), decide(failed), decide(again), decide(resumed, **away)]
    assert [(plan.urgent, plan.requeue_after, plan.writes) for plan in plans] == [(True, 0, ())] * 4
    assert [[event.type for event in plan.events] for plan in plans] == [["Normal"], ["Warning"], [], []]


def test_a_first_pod_and_a_complete_pool_are_written_at_once_and_nothing_else_is() -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    assert not decide(world).urgent
    world.live()[0].ready = True
    assert decide(world).urgent, "it takes the traffic now"
    world.settle()
    world.live()[1].ready = True
    assert decide(world).urgent, "a rollout may build on it"
    world.settle()
    assert not decide(world).urgent


@pytest.mark.parametrize(("seconds", "left"), [(1, 59), (59.5, 1)])
def test_the_next_step_is_due_when_a_version_is_tried_again(seconds: float, left: int) -> None:
    world = taken_back()
    world.wait(seconds)
    assert decide(world).requeue_after == left, "a second at least"


@pytest.mark.parametrize(("seconds", "left"), [(1, 1799), (1799.5, 1)])
def test_the_next_step_is_due_when_a_candidate_is_late(seconds: float, left: int) -> None:
    world = rolling()
    world.wait(seconds)
    assert decide(world).requeue_after == left, "a second at least"


@pytest.mark.parametrize(
    ("changes", "served", "again"),
    [
        pytest.param({"ready": 1}, False, True, id="it serves alone"),
        pytest.param({"ready": 1}, True, False, id="it gives its pods back"),
        pytest.param({"ready": 0}, False, False, id="it is not ready"),
        pytest.param({"ready": 1, "terminating": True}, False, False, id="it is being deleted"),
    ],
)
def test_a_version_is_tried_again_when_nothing_is_left_of_the_earlier_try(
    changes: Any, served: bool, again: bool
) -> None:
    world = taken_back()
    world.wait(60)
    left = RevisionView(Applied("left", "uid"), world.revision(2), 1, replicas=1, **changes)
    revisions = (*world.observed().revisions, left) if served else (left,)
    plan = decide(world, revisions=revisions)
    assert (plan.status.phase == "RollingOut") is again
    assert again or plan.requeue_after == 1, "it is looked at again soon"


def test_pods_of_a_deployment_that_is_being_deleted_count_for_nobody() -> None:
    """It is left alone; what remains makes up for it."""
    world = serving(1, replicas=2)
    going = RevisionView(Applied("going", "uid"), "going", 2, replicas=2, ready=2, terminating=True)
    assert decide(world, revisions=(going, *world.observed().revisions)).writes == ()
    world.edit(replicas=3)
    plan = decide(world, revisions=(going, *world.observed().revisions))
    assert [(patch.name, patch.body) for patch in patches(plan)] == [
        (*world.deployments, {"spec": {"replicas": 3}}),
    ]
    assert not removed(plan)


def test_what_a_pod_is_to_serve_stays_as_long_as_it_serves() -> None:
    world = rolling(replicas=3, done=1)
    world.publish(3)
    world.settle()
    assert {config.revision for config in world.configs.values()} == {world.revision(number) for number in (1, 2, 3)}
    world.deployments = {name: found for name, found in world.deployments.items() if found.wanted != 1}
    assert [name for name in removed(decide(world)) if name.startswith("ConfigMap")] == [
        f"ConfigMap chat-{world.revision(2)}"
    ]


def test_the_stable_revision_is_not_made_again_in_another_shape() -> None:
    """Its name stands for how its pods were made; by now the user wants them in another way."""
    world = waiting()
    world.edit(template={"spec": {"nodeSelector": {"gpu": "h100"}}})
    world.deployments.clear()
    assert not created(world.settle())
    assert not world.deployments


def test_a_config_that_is_gone_is_made_again_beside_the_pods_that_are_there() -> None:
    world = rolling(done=1)
    world.configs = {name: view for name, view in world.configs.items() if view.revision != world.revision(2)}
    assert created(world.step()) == [f"ConfigMap chat-{world.revision(2)}"]


def test_the_number_of_a_held_back_pools_pods_is_put_right() -> None:
    world = taken_back(BROKEN)
    (name,) = world.deployments
    world.deployments[name].wanted = 7
    assert [(patch.kind, patch.name, patch.body) for patch in patches(decide(world))] == [
        ("Deployment", name, {"spec": {"replicas": 2}})
    ]
    assert patches(world.step())
    assert not patches(world.settle())


def test_one_that_another_release_has_made_is_kept_in_its_shape_until_it_is_its_turn() -> None:
    world = serving(1)
    world.settings = replace(world.settings, server_image="aifactory/server:2")
    world.may_upgrade = False
    (made,) = world.deployments
    world.deployments.clear()
    world.settle()
    assert list(world.deployments) == [made]
    assert world.status.stable is not None
    assert world.status.stable.image == "aifactory/server:1"


def test_the_policy_of_proxies_is_there_before_them() -> None:
    world = World(pool(gateway={"mode": "Envoy"}, security={"networkPolicy": True}))
    world.settle()
    assert world.gateway.deployment is None
    assert set(world.policies) == {"chat-serving", "chat-gateway"}
