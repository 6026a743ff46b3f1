"""From one revision to another, step by step, under two promises: enough ready pods, and never too many pods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.api.inferencepool import InferencePoolStatus
from aifactory.api.reasons import ConditionType
from aifactory.serving.trouble import PASSING
from aifactory_contract.errors import TRANSIENT
from tests.unit.plans import removed
from tests.unit.serving.builders import NOW, World, conditions, guard, message, pool, serving


def counts(world: World, *numbers: int) -> list[tuple[int, int]]:
    """Ready pods and pods of each version."""
    return [(sum(pod.ready for pod in world.live(number)), len(world.live(number))) for number in numbers]


def test_a_rollout_step_by_step() -> None:
    world = serving(1, replicas=3)
    guard(world)
    world.publish(2)
    world.settle()
    assert counts(world, 1, 2) == [(3, 3), (0, 1)], "one pod more, and nothing is taken away"
    assert (world.status.phase, world.status.version) == ("RollingOut", "1")
    assert conditions(world.status)["Reconciling"] == ("True", "RollingOut")
    assert message(world.status) == "tiny-v2: 0 of 3 pods are ready; 3 pods of tiny-v1 answer"
    assert conditions(world.status)["Available"][0] == "True"
    assert conditions(world.status)["Degraded"][0] == "False"
    assert world.status.candidate is not None
    assert world.status.candidate.model_version == "tiny-v2"

    world.load()
    assert counts(world, 1, 2) == [(2, 2), (1, 2)]
    assert world.status.traffic == "2 pods of tiny-v1 and 1 of tiny-v2 answer", "the Service knows no revisions"
    assert message(world.status, ConditionType.AVAILABLE) == world.status.traffic
    world.load()
    assert counts(world, 1, 2) == [(1, 1), (2, 3)]
    assert world.status.version == "1"
    world.load()
    assert counts(world, 1, 2) == [(0, 0), (3, 3)]
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert world.status.candidate is None
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert conditions(world.status)["Degraded"][0] == "False"
    assert world.status.rollout is not None
    assert world.status.rollout.phase == "Complete"
    assert len(world.deployments) == len(world.configs) == 1
    assert world.events == ["RolledOut: tiny-v2 takes all traffic"]


def test_the_moment_in_which_a_version_takes_all_traffic_is_told_in_full() -> None:
    world = serving(1, replicas=2, rollout={"strategy": "Surge"})
    world.publish(2)
    world.settle()
    world.load()
    assert world.status.stable is not None
    assert (world.status.stable.replicas, world.status.stable.ready_replicas) == (1, 1)
    next(pod for pod in world.live(2) if not pod.ready).ready = True
    world.step()
    found = world.status.rollout
    assert found is not None
    assert found.dump() == {
        "phase": "Complete",
        "revision": world.revision(2),
        "reason": "RolledOut",
        "mostReady": 2,
        "attempts": 0,
        "failedRevision": "",
        "message": "",
        "strategy": "Surge",
        "strategyReason": "spec.rollout.strategy is Surge",
    }
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert message(world.status) == "tiny-v2 is loaded on 2 of 2 pods"
    flags = {type_: found[0] for type_, found in conditions(world.status).items()}
    assert (flags["Ready"], flags["Available"], flags["Degraded"]) == ("True", "True", "False")


def test_a_version_takes_over_a_pool_without_pods_at_once() -> None:
    world = serving(1, replicas=0, rollout={"strategy": "Surge"})
    world.publish(2)
    world.step()
    assert (world.status.phase, world.status.version) == ("ScaledToZero", "2")
    assert conditions(world.status)["Ready"] == ("True", "ScaledToZero")


def test_a_rollout_of_one_pod() -> None:
    world = serving(1, replicas=1)
    guard(world)
    world.publish(2)
    world.settle()
    assert counts(world, 1, 2) == [(1, 1), (0, 1)]
    world.load()
    assert counts(world, 1, 2) == [(0, 0), (1, 1)]


def test_a_changed_template_is_a_rollout_too() -> None:
    world = serving(1, replicas=2)
    guard(world)
    world.edit(template={"spec": {"nodeSelector": {"gpu": "h100"}}})
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "1")
    assert len(world.deployments) == 1


def test_a_candidate_pod_that_is_lost_gives_the_traffic_back() -> None:
    world = serving(1, replicas=3)
    world.publish(2)
    world.settle()
    world.load(2, 2)
    assert counts(world, 1, 2) == [(1, 1), (2, 3)]
    next(pod for pod in world.live(2) if pod.ready).ready = False
    world.settle()
    assert counts(world, 1, 2)[0] == (1, 2), "the stable revision gets a pod back"
    guard(world, ready=2)
    world.roll_out()
    assert world.status.version == "2"


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_the_way_back_in_the_middle(done: int) -> None:
    world = serving(1, replicas=4)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    world.pin(1)
    world.settle()
    assert sum(len(world.live(number)) for number in (1, 2)) <= 5
    if done:
        assert world.status.phase == "RollingOut"
        assert conditions(world.status)["Degraded"][0] == "False", "all traffic is served"
        assert world.status.rollout is not None
        assert (world.status.rollout.phase, world.status.rollout.revision) == ("Progressing", world.revision(1))
    world.roll_out()
    assert counts(world, 1, 2) == [(4, 4), (0, 0)]
    assert (world.status.phase, world.status.version) == ("Serving", "1")
    assert world.status.rollout is not None
    assert world.status.rollout.phase == "Complete"
    assert len(world.deployments) == len(world.configs) == 1


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_newer_version_in_the_middle(done: int) -> None:
    world = serving(1, replicas=4)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    world.publish(3)
    world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.revision == world.revision(3)
    assert sum(pod.ready for pod in world.live(2)) == done, "ready pods of the given up version serve on"
    assert len(world.live(2)) == done
    world.roll_out()
    assert counts(world, 1, 2, 3) == [(0, 0), (0, 0), (4, 4)]
    assert world.status.version == "3"
    assert len(world.deployments) == len(world.configs) == 1


def test_a_newer_version_before_the_first_is_complete() -> None:
    world = World(pool(replicas=2))
    world.publish(1)
    world.settle()
    world.load(1)
    guard(world, ready=1)
    world.publish(2)
    world.settle()
    assert counts(world, 1)[0] >= (1, 1), "the pod that answers stays"
    world.roll_out()
    assert world.status.version == "2"
    assert world.status.phase == "Serving"


LOAD = {"load_error": "LoadFailed: no such architecture"}


def failing(*, replicas: int = 2, done: int = 0) -> World:
    """Version 2 does not load in a pod."""
    world = serving(1, replicas=replicas)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    next(pod for pod in world.live(2) if not pod.ready).trouble = LOAD
    return world


def test_a_version_that_does_not_load_is_taken_back_and_not_tried_again() -> None:
    world = failing()
    decision = world.step()
    assert decision.urgent, "known before anything is removed"
    assert not removed(decision)
    assert [event.type for event in decision.events] == ["Warning"]
    world.settle()
    assert counts(world, 1, 2) == [(2, 2), (0, 0)]
    found = conditions(world.status)
    assert found["Available"] == ("True", "Serving")
    assert found["Degraded"] == ("True", "ModelLoadFailed")
    assert found["Stalled"] == ("True", "ModelLoadFailed")
    assert (world.status.phase, world.status.version) == ("Degraded", "1")
    assert "tiny-v2 was taken back, it does not load: LoadFailed: no such architecture" in message(world.status)
    world.bury()
    world.wait(1e6)
    said = message(world.status)
    world.settle()
    assert not world.live(2), "a failed version is not retried until something changes"
    assert message(world.status) == said
    assert len([event for event in world.events if "taken back" in event]) == 1


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_version_that_fails_in_the_middle_is_taken_back_without_a_gap(done: int) -> None:
    """It is loaded elsewhere, so it may be the pod; when the time is over it is the version all the same."""
    world = failing(replicas=4, done=done)
    world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(1800)
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Degraded", "RolloutDeadlineExceeded")
    world.roll_out()
    assert counts(world, 1, 2) == [(4, 4), (0, 0)]


def test_a_newer_version_is_tried_after_a_failed_one() -> None:
    world = failing()
    world.settle()
    world.publish(3)
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "3")
    assert conditions(world.status)["Stalled"][0] == "False"
    assert conditions(world.status)["Degraded"][0] == "False"


def test_a_failed_version_is_tried_requeue_after_the_wish_has_changed() -> None:
    world = failing()
    world.settle()
    world.pin(1)
    world.settle()
    assert (world.status.phase, conditions(world.status)["Stalled"][0]) == ("Serving", "False")
    world.pin(2)
    world.settle()
    assert len(world.live(2)) == 1, "the words of the pods before, which are still going, are not heard"
    world.roll_out()
    assert world.status.version == "2"


def test_replicas_can_change_while_a_failed_version_is_held_back() -> None:
    world = failing()
    world.settle()
    world.check = lambda: None
    world.edit(replicas=3)
    world.settle()
    assert counts(world, 1, 2) == [(2, 3), (0, 0)]
    assert world.status.phase == "Degraded"


def test_the_stable_revision_is_made_again_while_a_failed_one_is_held_back() -> None:
    world = failing()
    world.settle()
    world.check = lambda: None
    world.deployments.clear()
    world.settle()
    assert len(world.live(1)) == 2


@pytest.mark.parametrize("reason", sorted(PASSING))
def test_a_load_error_that_may_pass_only_delays_a_rollout(reason: str) -> None:
    world = serving(1)
    guard(world)
    world.publish(2)
    world.settle()
    (candidate,) = world.live(2)
    candidate.trouble = {"load_error": f"{reason}: try again"}
    world.settle()
    assert world.status.phase == "RollingOut"
    assert f"{reason}: try again" in message(world.status)
    candidate.trouble = {}
    world.roll_out()
    assert world.status.version == "2"


def test_reasons_that_may_pass_are_those_of_the_agent() -> None:
    assert {str(reason) for reason in TRANSIENT} == PASSING


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [({"unschedulable": "no GPU"}, "Unschedulable"), ({"waiting_reason": "ErrImagePull"}, "ImagePullFailed")],
)
def test_a_candidate_that_can_not_start_says_why_and_costs_nothing(trouble: Any, reason: str) -> None:
    world = serving(1)
    guard(world)
    world.publish(2)
    world.settle()
    world.live(2)[0].trouble = trouble
    world.settle()
    assert (world.status.phase, world.status.reason) == ("RollingOut", reason)
    assert conditions(world.status)["Available"][0] == "True"
    assert counts(world, 1, 2) == [(2, 2), (0, 1)]


@pytest.mark.parametrize("replicas", [0, 1, 2, 6])
def test_replicas_change_in_the_middle(replicas: int) -> None:
    world = serving(1, replicas=4)
    world.publish(2)
    world.settle()
    world.load(2, 2)
    world.edit(replicas=replicas)
    guard(world, ready=min(replicas, 4))
    world.roll_out()
    assert counts(world, 1, 2) == [(0, 0), (replicas, replicas)]
    assert world.status.version == "2"


def test_a_candidate_whose_version_is_deleted_is_given_up() -> None:
    world = serving(1, replicas=2)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(1, 2)
    del world.versions[2]
    world.roll_out()
    assert world.status.version == "1"
    assert len(world.live()) == 2
    assert len(world.deployments) == 1


def test_a_rollout_that_is_left_without_any_version_waits() -> None:
    world = serving(1, replicas=2)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(1, 2)
    world.publish(1, ready=False, reason="Gone")
    world.publish(2, ready=False, reason="Gone")
    world.roll_out()
    assert world.status.phase == "Waiting"
    assert world.status.candidate is None
    assert world.status.rollout is None or world.status.rollout.phase != "Progressing"
    assert len(world.live(1)) == 2


ACTIONS = st.sampled_from(
    ["load", "load", "load", "settle", "publish", "pin", "latest", "fail", "heal", "bury", "unready", "delete"]
)


@settings(max_examples=80)
@given(st.lists(st.tuples(ACTIONS, st.integers(1, 4)), max_size=30), st.integers(1, 4))
def test_whatever_is_wished_in_between_enough_pods_stay_ready(actions: list[tuple[str, int]], replicas: int) -> None:
    """Only what is not our doing (a pod that dies, a Deployment somebody deletes) may take ready pods away."""
    world = serving(1, replicas=replicas)
    least = replicas
    before = world.status
    for action, number in actions:
        guard(world, ready=least)
        _act(world, action, number)
        least = min(replicas, world.ready())
        guard(world, ready=least)
        world.step()
        _check_transitions(before, world.status)
        before = world.status
        least = max(least, min(replicas, world.ready()))
    world.check = lambda: None
    for pod in world.pods:
        pod.trouble = {}
    world.publish(9)
    world.edit(models=[{"name": "tiny", "track": "Latest"}])
    world.roll_out()
    assert (world.status.phase, world.status.version, world.status.summary) == (
        "Serving",
        "9",
        f"{replicas}/{replicas}",
    )
    assert len(world.deployments) == len(world.configs) == 1


def _act(world: World, action: str, number: int) -> None:
    waiting = [pod for pod in world.live() if not pod.ready and not pod.trouble]
    ready = [pod for pod in world.live() if pod.ready]
    if action == "load" and waiting:
        waiting[number % len(waiting)].ready = True
    elif action == "settle":
        world.settle()
    elif action == "publish":
        world.publish(number)
    elif action == "pin":
        world.pin(number)
    elif action == "latest":
        world.edit(models=[{"name": "tiny", "track": "Latest"}])
    elif action == "fail" and waiting:
        waiting[number % len(waiting)].trouble = LOAD
    elif action == "heal":
        for pod in world.pods:
            pod.trouble = {}
    elif action == "bury":
        world.bury()
    elif action == "unready" and ready:
        world.check = lambda: None
        ready[number % len(ready)].ready = False
    elif action == "delete" and world.deployments:
        world.check = lambda: None
        name = sorted(world.deployments)[number % len(world.deployments)]
        gone = world.deployments.pop(name)
        world.pods = [pod for pod in world.pods if pod.revision != gone.revision]


def _check_transitions(before: InferencePoolStatus, after: InferencePoolStatus) -> None:
    """A condition's time moves exactly when its status flips."""
    old = {found.type: found for found in before.conditions}
    for found in after.conditions:
        previous = old.get(found.type)
        if previous is not None:
            moved = previous.last_transition_time != found.last_transition_time
            assert not moved or previous.status != found.status, found


def test_a_rollout_can_be_watched_in_time() -> None:
    world = serving(1, replicas=1)
    since = next(found.last_transition_time for found in world.status.conditions if found.type == "Ready")
    world.wait(60)
    world.publish(2)
    world.settle()
    times = {found.type: found.last_transition_time for found in world.status.conditions}
    assert since == NOW
    assert times["Ready"] == world.now
    assert times["Available"] == NOW, "it never stopped"


def test_a_crash_at_the_promotion_and_another_wish_lose_nothing() -> None:
    """What carried the traffic was removed before the status said who does now; with another wish nobody knew it."""
    world = serving(1, replicas=2)
    world.publish(2)
    world.settle()
    world.load(1, 2)
    for pod in world.live(2):
        pod.ready = True
    before = world.pool
    world.step()
    world.pool = before  # the status was not written
    world.publish(3)
    world.settle()
    for pod in world.live(3):
        pod.trouble["load_error"] = "LoadFailed: no such layer"
    world.settle()
    assert world.status.phase == "Degraded"
    world.load(3)
    assert len(world.live(1)) == 2, "the stable revision is there, and has all its pods back"
