"""Whole statuses, as users read them: a change of words, of a condition or of a number shows in the golden file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aifactory.api.inferencepool import Finding, InferencePoolStatus, Measured, Throughput
from aifactory.api.reasons import Reason
from aifactory.kube.podstate import Crash
from aifactory.serving.measure import Measurement
from aifactory.serving.state import Wish
from aifactory.serving.status import StatusDraft
from aifactory.serving.swap import Choice
from tests.unit.golden import assert_golden
from tests.unit.serving.builders import NOW, World, conditions, message, pool, serving
from tests.unit.serving.test_shadow import load_copies, shadow

GOLDEN = Path(__file__).parent / "golden" / "statuses.yaml"
NO_NODE = {"unschedulable": "3 Insufficient nvidia.com/gpu"}
BROKEN = {"load_error": "LoadFailed: no such layer", "node": "n-1"}
DENIED = {"load_error": "AccessDenied: the store refused the credentials", "node": "n-1"}
CRASH = {"crash": Crash("triton", 137, "OOMKilled")}


def waiting(**changes: Any) -> World:
    world = World(pool(wish={"name": "tiny", "version": 3}))
    if changes:
        world.publish(3, ready=False, **changes)
    world.settle()
    return world


def starting(done: int = 0, **trouble: Any) -> World:
    world = World(pool())
    world.publish(1)
    world.settle()
    world.load(done)
    for pod in world.live():
        pod.trouble = {} if pod.ready else trouble
    world.settle()
    return world


def changed(world: World, **spec: Any) -> World:
    """The user changes the spec some time later."""
    world.wait(60)
    world.edit(**spec)
    world.settle()
    return world


def lost(world: World, **trouble: Any) -> World:
    """A pod that served does not any more."""
    world.wait(60)
    pod = world.live(1)[0]
    pod.ready, pod.trouble = False, trouble
    world.settle()
    return world


def rolling(done: int = 1, **trouble: Any) -> World:
    """Version 2 comes up; its next pod has a trouble."""
    world = serving(1, replicas=3)
    world.wait(60)
    world.publish(2)
    world.settle()
    world.load(done, 2)
    for pod in world.live(2):
        pod.trouble = {} if pod.ready else trouble
    world.settle()
    return world


def promoted(replicas: int) -> World:
    """At the moment at which version 2 has all of its pods, and before the others are removed."""
    world = serving(1, replicas=replicas)
    world.wait(60)
    world.publish(2)
    while not world.events:
        world.step()
        for pod in world.live():
            pod.ready = True
    return world


def rolled_out() -> World:
    world = promoted(2)
    world.roll_out()
    return world


def tried_again() -> World:
    """Version 2 was taken back, and has got its second chance."""
    world = rolling(0, **DENIED)
    world.wait(60)
    world.settle()
    return world


def taken_back_twice() -> World:
    world = tried_again()
    world.live(2)[0].trouble = DENIED
    world.settle()
    return world


def held_back_since_an_earlier_release() -> World:
    """It wrote no reason."""
    world = rolling(0, **BROKEN)
    assert world.status.rollout is not None
    world.status.rollout = world.status.rollout.model_copy(update={"reason": "", "message": ""})
    world.settle()
    return world


def canary(*steps: dict[str, Any]) -> World:
    """Version 2 has the pods for the first step."""
    analysis = {"metrics": [{"name": "errorRate", "max": "0.01"}], "minSamples": 100}
    world = serving(1, replicas=3, rollout={"steps": list(steps), "analysis": analysis})
    world.wait(60)
    world.publish(2)
    world.settle()
    world.load(1, 2)
    return world


def copying(step: dict[str, Any]) -> World:
    """Version 2 has pods that get copies of requests."""
    world = shadow(steps=[{"mirror": 40}, step])
    load_copies(world)
    return world


def compared(seconds: float, requests: int, failures: int) -> World:
    """Some time later so much is known of version 2."""
    world = canary({"weight": 30}, {"analyzeSeconds": 60})
    change = world.status.rollout
    assert change is not None
    assert change.window is not None
    world.wait(seconds)
    counted = Measured(requests=requests, failures=failures)
    world.measured = Measurement(change.revision, change.window.since, counted, Measured(requests=900))
    world.settle()
    return world


def on_the_way_back() -> World:
    world = rolling(2)
    world.pin(1)
    world.settle()
    return world


def on_the_way_back_from_what_failed() -> World:
    world = rolling(2, **NO_NODE)
    world.wait(1800)
    world.step()
    world.pin(1)
    world.step()
    return world


def without_any_version(world: World) -> World:
    world.wait(60)
    for number in world.versions:
        world.publish(number, ready=False, reason="DigestMismatch", message="a is not b")
    world.settle()
    return world


def scaling_without_a_node() -> World:
    world = changed(serving(), replicas=3)
    next(pod for pod in world.live() if not pod.ready).trouble = NO_NODE
    world.settle()
    return world


def scaled_to_zero() -> World:
    world = serving()
    world.throughput = Throughput(requests_per_second="3", tokens_per_second="90")
    world.settle()
    world.throughput = None
    return changed(world, replicas=0)


SITUATIONS: dict[str, Callable[[], World]] = {
    "waits for a version that does not exist": waiting,
    "waits for a version that is being checked": lambda: waiting(reason="Verifying", message="it is read"),
    "waits for a version that is broken": lambda: waiting(reason="DigestMismatch", message="a is not b"),
    "starts": starting,
    "starts, one pod is ready": lambda: starting(1),
    "starts, a pod has no node": lambda: starting(1, **NO_NODE),
    "starts, a container crashes": lambda: starting(0, **CRASH),
    "starts, and the version does not load": lambda: starting(0, **BROKEN),
    "starts, one pod is ready and the other does not load": lambda: starting(1, **BROKEN),
    "serves": serving,
    "scales up": lambda: changed(serving(), replicas=3),
    "scales up, and has no node": scaling_without_a_node,
    "scales up, and has lost a pod that served": lambda: lost(changed(serving(), replicas=3), **NO_NODE),
    "has scaled to zero": scaled_to_zero,
    "was made with no pods": lambda: serving(replicas=0),
    "has lost a pod": lambda: lost(serving()),
    "has lost its only pod": lambda: lost(serving(replicas=1)),
    "has lost its only pod, there is no node": lambda: lost(serving(replicas=1), **NO_NODE),
    "has lost a pod, it crashes": lambda: lost(serving(), **CRASH),
    "rolls out": rolling,
    "rolls out, and has no node": lambda: rolling(0, **NO_NODE),
    "rolls out, and has lost a pod that served": lambda: lost(rolling(), **CRASH),
    "has rolled out": lambda: promoted(2),
    "has rolled out nothing": lambda: promoted(0),
    "has rolled out and removed what served before": rolled_out,
    "took a version back": lambda: rolling(0, **BROKEN),
    "took a version back that can be mended": lambda: rolling(0, **DENIED),
    "took a version back and has lost a pod that served": lambda: lost(rolling(0, **BROKEN), **CRASH),
    "tries a version again": tried_again,
    "took a version back twice": taken_back_twice,
    "holds a version back since an earlier release": held_back_since_an_earlier_release,
    "a canary waits for its time": lambda: canary({"weight": 30}, {"pauseSeconds": 600}),
    "a canary waits for somebody": lambda: canary({"weight": 30}, {"pause": {}}),
    "a canary compares": lambda: canary({"weight": 30}, {"analyzeSeconds": 60}),
    "a canary can not tell": lambda: compared(60, 20, 0),
    "a canary has failed its comparison": lambda: compared(15, 100, 100),
    "a shadow has no pods yet": shadow,
    "a shadow compares": lambda: copying({"analyzeSeconds": 60}),
    "a shadow waits for somebody": lambda: copying({"pause": {}}),
    "goes back in the middle": on_the_way_back,
    "goes back after it took a version back in the middle": on_the_way_back_from_what_failed,
    "serves a version that is broken by now": lambda: without_any_version(serving()),
    "rolls out versions that are broken by now": lambda: without_any_version(rolling()),
}


def summed_up(status: InferencePoolStatus) -> dict[str, str]:
    """A status in few lines: what is empty is left out, and words are told once."""
    told: dict[str, str] = {}
    found = status.dump()
    ready = message(status)
    for entry in found.pop("conditions"):
        words = "(so too)" if entry["type"] != "Ready" and entry["message"] == ready else entry["message"]
        told[entry["type"]] = f"{entry['status']} {entry['reason']} {words}".strip()
    for model in found.pop("models", ()):
        called = f"model {model.pop('name')}"
        told[called] = " ".join(f"{name}={value}" for name, value in model.items())
    for part in ("stable", "candidate", "rollout", "throughput"):
        if part in found:
            told[part] = " ".join(f"{name}={value}" for name, value in found.pop(part).items() if value)
    for name in ("observedGeneration", "selector", "url"):
        found.pop(name)
    return {"status": " ".join(f"{name}={value}" for name, value in found.items() if value), **told}


def test_what_users_read_in_each_situation() -> None:
    assert_golden(GOLDEN, [{name: summed_up(make().status)} for name, make in SITUATIONS.items()])


def drafted(world: World, change: Callable[[StatusDraft], object], **observed: Any) -> InferencePoolStatus:
    draft = StatusDraft(replace(world.observed(), **observed), world.wanted, world.now)
    change(draft)
    return draft.result()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({}, "PodsNotReady"),
        (NO_NODE, "Unschedulable"),
        (CRASH, "CrashLoopBackOff"),
        ({"refused_by_node": "OutOfcpu: no room"}, "PodsNotReady"),
    ],
)
def test_a_pool_that_serves_no_more_is_degraded_whatever_keeps_its_pod_away(
    trouble: dict[str, Any], reason: str
) -> None:
    world = lost(serving(replicas=1), **trouble)
    assert conditions(world.status)["Degraded"] == ("True", reason)
    assert (world.status.phase, world.status.reason) == ("Degraded", reason)


def test_an_address_that_is_not_there_yet_answers_nobody() -> None:
    world = serving()
    world.service = None
    world.step()
    found = conditions(world.status)
    assert found["Available"] == ("False", "PodsNotReady")
    assert (found["Ready"][0], found["Reconciling"]) == ("False", ("True", "PodsNotReady"))
    assert message(world.status) == "tiny-v1: 2 of 2 pods have it loaded; Service chat is made"
    assert world.status.phase == "Scaling", "no other version comes up"


def test_a_request_to_try_again_outlives_a_refused_object() -> None:
    world = serving()
    meta = world.pool.metadata.model_copy(update={"annotations": {"aifactory.dev/retry": "now"}})
    world.pool = world.pool.model_copy(update={"metadata": meta})
    world.live()[0].ready = world.live()[1].ready = False
    status = drafted(world, lambda draft: draft.refused(Reason.POD_REJECTED, "no"))
    assert status.retried == ""
    assert conditions(status)["Available"][0] == "False"


@pytest.mark.parametrize(("had", "pods", "most"), [(0, 1, 2), (3, 1, 2), (1, 2, 2), (1, 1, 1)])
def test_how_many_pods_there_were_is_kept_up_to_what_is_wanted(had: int, pods: int, most: int) -> None:
    """None in status: an earlier release has written it; then the ready pods of that moment count."""
    world = serving(replicas=2)
    assert world.status.rollout is not None
    world.status.rollout = world.status.rollout.model_copy(update={"most_ready": had})
    for pod in world.live()[pods:]:
        pod.ready = False
    world.step()
    assert world.status.rollout.most_ready == most


def test_a_pod_that_is_lost_at_once_was_there() -> None:
    world = World(pool())
    world.publish(1)
    world.settle()
    for pod in world.live():
        pod.ready = True
    world.step()
    assert world.status.rollout is not None
    assert (world.status.rollout.phase, world.status.rollout.most_ready) == ("Complete", 2)


def test_a_pool_of_no_pods_is_complete_with_its_deployment() -> None:
    """Who scales it up finds the version there."""
    world = serving(replicas=0)
    world.deployments.clear()
    world.step()
    found = conditions(world.status)
    assert (found["Ready"][0], found["Reconciling"]) == ("False", ("True", "ScaledToZero"))
    assert world.status.phase == "ScaledToZero", "no other version comes up"
    world.settle()
    assert conditions(world.status)["Ready"][0] == "True"


def test_a_candidate_begins_with_no_pods_and_no_earlier_tries() -> None:
    world = rolling(0, **DENIED)
    world.publish(3)
    world.step()
    assert message(world.status).startswith("tiny-v3: 0 of 3 pods are ready")
    assert world.status.rollout is not None
    assert (world.status.rollout.attempts, world.status.rollout.failed_revision) == (0, "")


def test_a_first_version_begins_with_no_pods() -> None:
    world = World(pool())
    world.publish(1)
    world.step()
    assert message(world.status) == "tiny-v1: 0 of 2 pods have it loaded"


def test_earlier_tries_of_another_version_count_for_nothing() -> None:
    """Also when what was written about the newer one was lost."""
    world = taken_back_twice()
    world.publish(3)
    before = world.pool
    world.step()
    world.pool = before
    for pod in world.live(3):
        pod.trouble = DENIED
    world.step()
    assert world.status.rollout is not None
    assert (world.status.rollout.phase, world.status.rollout.attempts) == ("Failed", 1)


def test_a_stable_revision_whose_deployment_is_gone_has_no_pods() -> None:
    world = taken_back_twice()
    world.deployments.clear()
    world.pods.clear()
    world.step()
    assert world.status.stable is not None
    assert (world.status.stable.replicas, world.status.stable.ready_replicas) == (0, 0)


def test_of_a_comparison_is_told_with_the_version_that_it_was_about() -> None:
    world = canary({"weight": 30}, {"pauseSeconds": 600})
    found = (Finding(metric="errorRate", outcome="Passed", message="errorRate: 0"),)
    change, wish = world.status.rollout, Wish(world.versions[2], world.revision(2), "image", world.revision(2))
    assert change is not None
    for revision, told in ((wish.revision, found), ("another", None)):
        world.status.rollout = change.model_copy(update={"revision": revision, "analysis": found})
        status = drafted(world, lambda draft: draft.promoted(wish, Choice("Canary", "")))
        assert status.rollout is not None
        assert status.rollout.analysis == told
    world.status.rollout = None
    status = drafted(world, lambda draft: draft.promoted(wish, Choice("Canary", "")))
    assert status.rollout is not None
    assert status.rollout.analysis is None, "what was found is lost, and the version takes all traffic"


def test_times_in_status_have_whole_seconds() -> None:
    """The world compares what is written with what comes back, and only whole seconds do."""
    world = World(pool(replicas=1), now=NOW + timedelta(microseconds=1234))
    world.publish(1)
    world.roll_out()
    world.publish(2)
    world.settle()
    world.live(2)[0].trouble = DENIED
    world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.retry_time == NOW + timedelta(seconds=60)
    world.wait(60)
    world.settle()
    assert world.status.rollout.progress_time == NOW + timedelta(seconds=60)
