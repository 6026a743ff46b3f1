"""When a candidate is taken back: it does not load, it crashes, or its time is over."""

from __future__ import annotations

from typing import Any

import pytest

from aifactory.kube.podstate import Crash
from tests.unit.serving.builders import World, conditions, guard, message, serving

LOAD = {"load_error": "LoadFailed: no such architecture", "node": "n-1"}
NO_NODE = {"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}


def rolling(replicas: int = 3, done: int = 0, **spec: Any) -> World:
    """Version 2 comes up; so many of its pods are ready."""
    world = serving(1, replicas=replicas, **spec)
    guard(world)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    return world


def waiting(world: World) -> Any:
    """The pod of version 2 that is not ready."""
    (found,) = [pod for pod in world.live(2) if not pod.ready]
    return found


# --- The deadline ---


@pytest.mark.parametrize(("spec", "seconds"), [({}, 1800), ({"rollout": {"progressDeadlineSeconds": 60}}, 60)])
def test_a_candidate_that_makes_no_progress_is_taken_back(spec: Any, seconds: int) -> None:
    world = rolling(**spec)
    waiting(world).trouble = NO_NODE
    decision = world.settle()
    assert decision.requeue_after == seconds, "nothing else may ever happen"
    world.wait(seconds - 1)
    world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(1)
    world.settle()
    assert (world.status.phase, world.status.reason, world.status.version) == (
        "Degraded",
        "RolloutDeadlineExceeded",
        "1",
    )
    for part in (
        "tiny-v2 was taken back",
        f"no progress for {seconds} s",
        "0 of 3 pods are ready",
        "Insufficient nvidia",
    ):
        assert part in message(world.status)
    assert conditions(world.status)["Degraded"] == ("True", "RolloutDeadlineExceeded")
    assert conditions(world.status)["Available"][0] == "True"
    assert (len(world.live(1)), len(world.live(2))) == (3, 0)
    assert world.events[-1].startswith("RolloutDeadlineExceeded: tiny-v2 is taken back: it made no progress")


def test_every_further_pod_gives_the_candidate_its_time_again() -> None:
    world = rolling()
    for _ in range(3):
        world.wait(1799)
        world.load(1, 2)
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_pod_that_comes_and_goes_is_no_progress() -> None:
    world = rolling(done=1)
    world.check = lambda: None
    for _ in range(3):
        world.wait(599)
        next(pod for pod in world.live(2) if pod.ready).ready = False
        world.settle()
        waiting_now = [pod for pod in world.live(2) if not pod.ready]
        waiting_now[0].ready = True
        world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(3)
    world.settle()
    assert world.status.reason == "RolloutDeadlineExceeded"


def test_while_the_operator_is_away_no_candidate_is_late() -> None:
    """It had asked for one pod, which is ready: that there is no second one is not the version's fault."""
    world = rolling()
    waiting(world).ready = True
    world.step()  # notes the progress and asks for another
    world.pods = [pod for pod in world.pods if pod.ready]
    next(found for found in world.deployments.values() if found.revision == world.revision(2)).wanted = 1
    world.wait(10_000)
    decision = world.step()
    assert decision.urgent
    assert not decision.writes, "a pod that is asked for before this is known would be late already"
    world.settle()
    assert world.status.phase == "RollingOut"
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_one_that_became_complete_while_the_operator_was_away_takes_over() -> None:
    world = rolling(replicas=1)
    world.wait(10_000)
    waiting(world).ready = True
    world.settle()
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_store_that_is_away_for_good_ends_a_rollout() -> None:
    world = rolling()
    waiting(world).trouble = {"load_error": "StoreUnavailable: it does not answer"}
    world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(1800)
    world.settle()
    assert world.status.phase == "Degraded"
    assert "StoreUnavailable: it does not answer" in message(world.status)


# --- It does not load, or crashes ---


def test_evidence_is_told() -> None:
    world = rolling()
    waiting(world).trouble = LOAD
    world.settle()
    assert "LoadFailed: no such architecture (1 pod on 1 node failed, and none has it loaded)" in message(world.status)


def test_one_bad_node_does_not_condemn_a_version() -> None:
    world = rolling(done=1)
    bad = waiting(world)
    bad.trouble = LOAD
    world.settle()
    assert (world.status.phase, world.status.reason) == ("RollingOut", "ModelLoadFailed")
    assert "1 other pod has it loaded, so it is this pod or n-1: kubectl cordon n-1" in message(world.status)
    assert f"kubectl -n ns delete pod {bad.name}" in message(world.status)
    assert len(world.live(2)) == 2, "what is loaded serves on"
    bad.trouble = {}
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_version_that_was_loaded_before_is_not_condemned_by_a_pod_that_comes_after() -> None:
    world = rolling(done=1)
    world.check = lambda: None
    for pod in world.live(2):
        pod.ready, pod.trouble = False, LOAD
    world.settle()
    assert world.status.phase == "RollingOut"


@pytest.mark.parametrize(("restarts", "phase"), [(2, "RollingOut"), (3, "Degraded")])
def test_a_candidate_that_crashes_is_taken_back(restarts: int, phase: str) -> None:
    world = rolling()
    waiting(world).trouble = {"crash": Crash("triton", 1, "Error", "no such flag", restarts), "node": "n-1"}
    world.settle()
    assert (world.status.phase, world.status.reason) == (phase, "CrashLoopBackOff")
    assert "last with exit code 1: no such flag" in message(world.status)
    assert conditions(world.status)["Available"][0] == "True"
    if phase == "Degraded":
        assert "tiny-v2 was taken back, container triton of pod" in message(world.status)
        assert len(world.live(1)) == 3


def test_long_words_leave_room_for_the_way_out() -> None:
    world = rolling()
    waiting(world).trouble = {"load_error": f"LoadFailed: {'x' * 2000}"}
    world.settle()
    assert "Publish a version that works" in message(world.status)
    assert message(world.status).endswith('aifactory.dev/retry="$(date)"')


# --- The second chance ---

DENIED = {"load_error": "AccessDenied: the store refused the credentials", "node": "n-1"}


def taken_back(trouble: Any = DENIED, **spec: Any) -> World:
    world = rolling(**spec)
    waiting(world).trouble = trouble
    world.settle()
    assert world.status.phase == "Degraded"
    return world


def ask(world: World, value: str) -> None:
    meta = world.pool.metadata.model_copy(update={"annotations": {"aifactory.dev/retry": value}})
    world.pool = world.pool.model_copy(update={"metadata": meta})


def test_what_can_be_mended_is_tried_again_less_and_less_often() -> None:
    world = taken_back()
    assert conditions(world.status)["Stalled"][0] == "True"
    assert "It is tried again at 2026-01-01T12:01:00Z, or at once with: kubectl -n ns annotate" in message(world.status)
    for seconds in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert world.settle().requeue_after == seconds
        world.wait(seconds - 1)
        world.settle()
        assert not world.live(2)
        world.wait(1)
        world.settle()
        assert (world.status.phase, len(world.live(2))) == ("RollingOut", 1)
        assert conditions(world.status)["Reconciling"][0] == "True"
        waiting(world).trouble = DENIED
        world.settle()
        assert (world.status.phase, len(world.live(1))) == ("Degraded", 3)


def test_when_it_is_mended_the_version_takes_over() -> None:
    world = taken_back()
    world.wait(60)
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")
    assert world.status.rollout is not None
    assert (world.status.rollout.attempts, world.status.rollout.retry_time) == (0, None)


def test_what_serves_alone_does_not_keep_itself_from_being_tried_again() -> None:
    """Somebody removed the stable Deployment and its version: a pod of the candidate that is ready is all there is."""
    world = rolling(done=1)
    del world.versions[1], world.deployments[f"chat-{world.status.stable.revision}"]  # type: ignore[union-attr]
    world.check = lambda: None
    world.pods = [pod for pod in world.pods if pod.revision == world.revision(2)]
    world.settle()
    for pod in world.live(2):
        if not pod.ready:
            pod.trouble = NO_NODE
    world.wait(1800)
    world.settle()
    assert (world.status.phase, world.ready()) == ("Degraded", 1)
    world.wait(60)
    world.settle()
    assert world.status.phase == "RollingOut"
    for pod in world.live(2):
        pod.trouble = {}
    world.roll_out()
    assert (world.status.version, world.ready()) == ("2", 3)


def test_a_rollout_that_was_late_is_tried_again() -> None:
    world = rolling()
    waiting(world).trouble = NO_NODE
    world.settle()
    world.wait(1800)
    world.settle()
    assert world.status.phase == "Degraded"
    world.wait(60)
    world.settle()
    assert world.status.phase == "RollingOut"
    world.wait(1799)
    world.roll_out()
    assert world.status.version == "2", "its time has begun again"


def test_what_no_other_try_can_change_is_tried_on_request_only() -> None:
    world = taken_back(LOAD)
    world.wait(1e6)
    assert world.settle().requeue_after is None
    assert not world.live(2)
    ask(world, "1")
    world.settle()
    assert (world.status.phase, world.status.retried) == ("RollingOut", "1")
    waiting(world).trouble = LOAD
    world.settle()
    assert world.status.phase == "Degraded"
    ask(world, "1")
    world.settle()
    assert not world.live(2), "every value counts once"
    ask(world, "2")
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "2")


def test_a_request_waits_until_the_earlier_try_is_gone() -> None:
    """Else the words of its pods would be taken for those of the next try."""
    world = rolling()
    waiting(world).trouble = LOAD
    world.step()
    assert world.status.phase == "Degraded"
    ask(world, "now")
    world.step()
    assert (world.status.phase, world.status.retried) == ("Degraded", "")
    assert not world.live(2)
    world.roll_out()
    assert (world.status.version, world.status.retried) == ("2", "now")


def test_a_request_when_nothing_was_taken_back_is_used_up() -> None:
    world = rolling()
    ask(world, "early")
    world.settle()
    waiting(world).trouble = LOAD
    world.settle()
    assert (world.status.phase, world.status.retried) == ("Degraded", "early")
    world.settle()
    assert not world.live(2)


def test_a_crash_between_the_decision_to_try_again_and_its_status_makes_no_pod() -> None:
    world = taken_back()
    world.wait(60)
    before = world.pool
    decision = world.step()
    assert decision.urgent
    assert not decision.writes
    world.pool = before
    world.roll_out()
    assert world.status.version == "2"


def test_another_change_is_not_held_up_by_what_was_taken_back() -> None:
    world = taken_back()
    world.publish(3)
    world.roll_out()
    assert (world.status.phase, world.status.version) == ("Serving", "3")
