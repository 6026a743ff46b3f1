"""Whole lives of jobs: decisions are carried out in a tiny world until nothing is left to do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifactory.api.reasons import ConditionType
from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine.plan import DryRun, Plan, WriteError
from aifactory.kube.errors import ApiError, BadRequest, Forbidden
from aifactory.training.domain import Training
from aifactory.training.state import VersionView
from tests.unit.plans import created, removed, tried
from tests.unit.training.builders import (
    NOW,
    OUTPUT,
    PUBLISHED,
    UID,
    World,
    conditions,
    decide,
    job,
    message,
    report,
)


def started(**spec: Any) -> World:
    """A job all of whose pods run."""
    world = World(job(**spec))
    world.settle()
    world.run_pods()
    world.settle()
    assert world.status.phase == "Running"
    return world


def succeed(world: World) -> None:
    for name, view in world.pods.items():
        if not view.terminating:
            world.end(name, 0)


def test_from_nothing_to_a_model_version() -> None:
    world = World(job(nodes=2, output=OUTPUT), gangs_served=True)
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert set(world.gangs) == {"train-0"}
    assert world.others == {"PersistentVolumeClaim train-workspace", "PersistentVolumeClaim aifactory-models"}
    assert world.service is not None

    world.run_pods()
    world.settle()
    assert (world.status.phase, conditions(world.status)["Ready"][0]) == ("Running", "True")

    world.wait(60)
    world.progress = report(300, at=world.now, total_steps=300, metrics=(("loss", 1.5),))
    succeed(world)
    world.settle()
    assert world.status.phase == "Publishing"
    assert set(world.publishers) == {"train-publish-0"}
    assert world.status.progress is not None
    assert world.status.progress.percent == 100

    world.end_publisher({**PUBLISHED, "format": "huggingface", "metrics": {"heldOutBitsPerByte": 2.5}})
    world.settle()
    assert set(world.versions) == {"tiny-v1"}
    assert world.status.phase == "Succeeded"
    assert world.status.output is not None
    assert world.status.output.model_version == "tiny-v1"
    assert message(world.status) == "all pods succeeded; the result is ModelVersion tiny-v1"
    assert world.status.completion_time == NOW + timedelta(seconds=60)
    assert set(world.pods) == {"train-0-0", "train-1-0"}, "they are kept for their logs"


def test_a_coordinated_restart_step_by_step() -> None:
    world = started(nodes=3)
    world.end("train-1-0", 1, exit_message="ValueError: lr")

    decision = world.step()
    assert (created(decision), removed(decision)) == ([], []), "the attempt is raised first, in status"
    assert decision.urgent
    assert decision.requeue_after == 0
    assert world.status.attempt == 1

    decision = world.step()
    assert set(removed(decision)) == {"Pod train-0-0", "Pod train-2-0"}, "all at once that hold a GPU"
    assert world.status.reason == "StoppingPods"

    world.settle()
    assert len(world.pods) == 3, "while old pods end, no new one is created"
    world.bury()
    decision = world.step()
    assert decision.requeue_after == 10
    assert world.status.reason == "BackOff"
    assert set(world.pods) == {"train-1-0"}, "for its log"

    world.wait(9)
    world.settle()
    assert set(world.pods) == {"train-1-0"}
    world.wait(1)
    world.settle()
    assert set(world.pods) == {"train-1-0", "train-0-1", "train-1-1", "train-2-1"}
    assert conditions(world.status)["Restarting"][0] == "True"

    world.run_pods()
    world.settle()
    assert conditions(world.status)["Restarting"] == ("False", "AllNodesReady")
    restarts = world.status.restarts
    assert restarts is not None
    assert (restarts.total, restarts.counted, restarts.by_cause) == (1, 1, {"ApplicationError": 1})


def test_a_restart_makes_a_new_gang_and_removes_the_old_one() -> None:
    world = World(job(nodes=2), gangs_served=True)
    world.settle()
    assert set(world.gangs) == {"train-0"}
    world.run_pods()
    world.settle()
    world.change("train-0-0", disruption="PreemptionByScheduler: higher priority", terminating=True)
    world.settle()
    assert not world.gangs
    world.bury()
    world.settle()
    assert set(world.gangs) == {"train-1"}
    assert set(world.pods) == {"train-0-1", "train-1-1"}, "a disruption waits for nothing"


def failed_and_restarted(world: World, *names: str) -> None:
    for name in names:
        world.end(name, 1)
    world.settle()
    world.bury()
    world.wait(700)
    world.settle()
    world.run_pods()
    world.bury()
    world.settle()


def test_the_pod_whose_failure_decided_is_kept_for_its_log() -> None:
    """`see: kubectl logs X` never names a pod that is gone (jobset#776)."""
    world = started(nodes=2, failurePolicy={"maxRestarts": 9, "windowSeconds": 60})
    failed_and_restarted(world, "train-1-0")
    assert set(world.pods) == {"train-1-0", "train-0-1", "train-1-1"}
    assert (world.status.phase, world.status.replicas) == ("Running", 2)
    assert world.status.nodes is not None
    assert (world.status.nodes.failed, world.status.nodes.summary) == (0, "2/2")
    assert world.status.last_failure is not None
    assert world.status.last_failure.pod in world.pods
    for attempt in range(1, 5):
        failed_and_restarted(world, f"train-0-{attempt}")
    kept = {"train-0-2", "train-0-3", "train-0-4"}
    assert set(world.pods) == {*kept, "train-0-5", "train-1-5"}, "the last of each of the last three attempts"
    world.edit(suspend=True)
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) == kept
    assert world.status.phase == "Suspended"


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_pod_that_is_ending_is_waited_for_and_keeps_its_log(restarts: int) -> None:
    """A kubelet tells the pod's phase later than its containers' ends: deleted between the two, its log would go."""
    world = started(nodes=3, failurePolicy={"maxRestarts": restarts})
    for index in (1, 2):
        world.change(f"train-{index}-0", ending=True)
    world.settle()
    assert (world.status.phase, len(world.pods)) == ("Running", 3), "nothing is concluded yet"
    world.end("train-1-0", 1, ending=False)
    world.settle()
    world.bury()
    assert set(world.pods) == {"train-1-0", "train-2-0"}, "the others are removed"
    world.end("train-2-0", 1, ending=False)
    world.wait(700)
    world.settle()
    world.bury()
    assert world.status.last_failure is not None
    assert world.status.last_failure.message.endswith("see: kubectl logs train-1-0")
    kept = {"train-1-0", "train-0-1", "train-1-1", "train-2-1"} if restarts else {"train-1-0", "train-2-0"}
    assert set(world.pods) == kept


@pytest.mark.parametrize(
    ("step", "code", "cause"),
    [
        (300, 134, "AbortedAtEnd"),
        (300, 139, "AbortedAtEnd"),
        (299, 134, "ApplicationError"),
        (300, 1, "ApplicationError"),
    ],
)
def test_a_program_that_aborts_after_its_last_step_has_its_result_published(step: int, code: int, cause: str) -> None:
    """torch aborts now and then while a process ends (pytorch#179291); with maxRestarts 0 the result would be lost."""
    world = started(nodes=1, failurePolicy={"maxRestarts": 0}, output=OUTPUT)
    world.progress = report(step, total_steps=300, at=world.now)
    world.end("train-0-0", code)
    world.settle()
    assert world.status.last_failure is not None
    assert world.status.last_failure.cause == cause
    assert world.status.phase == ("Failed" if cause == "ApplicationError" else "Starting")
    if world.status.phase == "Starting":
        world.end("train-0-1", 0)
        world.settle()
        assert world.status.phase == "Publishing"


def test_of_several_that_failed_the_one_that_decided_is_kept() -> None:
    world = started(nodes=3)
    world.end("train-2-0", 1)
    world.wait(1)
    failed_and_restarted(world, "train-0-0", "train-1-0")
    assert {name for name in world.pods if name.endswith("-0")} == {"train-2-0"}


def test_the_pod_that_the_status_names_stays_however_often_the_job_is_edited() -> None:
    world = started()
    failed_and_restarted(world, "train-0-0")
    for number in range(5):
        world.edit(template={"spec": {"containers": [{"name": "trainer", "image": f"trainer:{number}"}]}})
        world.settle()
        world.bury()
        world.settle()
    assert world.status.attempt == 6
    assert world.status.last_failure is not None
    assert world.status.last_failure.pod == "train-0-0"
    assert set(world.pods) == {"train-0-0", "train-0-6"}


def test_a_kept_pod_that_somebody_deletes_disturbs_nothing() -> None:
    world = started()
    failed_and_restarted(world, "train-0-0")
    world.change("train-0-0", terminating=True)
    world.settle()
    assert world.status.phase == "Running"


def test_of_the_attempt_that_ends_the_job_all_that_have_ended_are_kept() -> None:
    world = started(nodes=3, failurePolicy={"maxRestarts": 0})
    world.end("train-0-0", 1)
    world.end("train-1-0", 1)
    world.settle()
    world.bury()
    world.settle()
    assert (world.status.phase, set(world.pods)) == ("Failed", {"train-0-0", "train-1-0"})


def test_a_failure_that_was_counted_before_the_node_was_missed_is_forgiven() -> None:
    """A rank that waits for one on a dead machine may give up before the cluster has noticed."""
    world = started(nodes=2)
    world.end("train-1-0", 1)
    world.settle()
    assert world.status.restarts is not None
    assert world.status.restarts.counted == 1
    world.lost_nodes = {"node-0": "does not answer"}
    world.settle()
    assert (world.status.restarts.counted, world.status.restarts.by_cause) == (0, {"Disruption": 1})
    assert world.status.restarts.next_attempt_time is None
    assert world.status.last_failure is not None
    assert world.status.last_failure.cause == "Disruption"
    assert (
        "node node-0 of pod train-0-0 does not answer; pod train-1-0 then: container trainer ended with exit code 1"
        in (world.status.last_failure.message)
    )


def test_a_program_that_failed_on_the_node_that_is_lost_later_is_not_forgiven() -> None:
    world = started()
    world.end("train-0-0", 1)
    world.settle()
    world.lost_nodes = {"node-0": "does not answer"}
    world.settle()
    assert world.status.restarts is not None
    assert world.status.restarts.counted == 1


@pytest.mark.parametrize("why", ["suspend", "restart"])
def test_a_pod_that_can_not_end_is_told_with_its_node_and_the_way_out(why: str) -> None:
    world = started(nodes=2)
    if why == "suspend":
        world.edit(suspend=True)
    else:
        world.end("train-1-0", 1)
    world.settle()
    world.change("train-0-0", terminating=True, due_to_end=world.now)
    if why == "suspend":
        world.change("train-1-0", terminating=True, due_to_end=world.now)
    world.settle()
    assert world.log[-1].requeue_after == 60
    assert conditions(world.status)["Stalled"][0] == "False"
    world.wait(60)
    world.lost_nodes = {"node-0": "does not answer"}
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "NodeLost")
    words = message(world.status)
    assert "pod train-0-0" in words
    assert "its node node-0 does not answer" in words
    assert "kubectl delete node node-0" in words


def test_a_pod_that_does_not_end_is_told_also_where_nodes_can_not_be_read() -> None:
    world = started()
    world.edit(suspend=True)
    world.settle()
    world.change("train-0-0", terminating=True, due_to_end=world.now)
    world.wait(61)
    world.settle()
    assert "its node node-0 has not confirmed that it has ended" in message(world.status)


def test_failures_until_the_policy_gives_up() -> None:
    world = started(nodes=2, failurePolicy={"maxRestarts": 2, "backoff": {"baseSeconds": 5}})
    waits = []
    for attempt in range(3):
        world.end(f"train-0-{attempt}", 1)
        world.settle()
        world.bury()
        world.settle()
        waits.append(world.log[-1].requeue_after)
        world.wait(waits[-1] or 0)
        world.settle()
        world.run_pods()
        world.settle()
    assert waits == [5, 10, None]
    assert world.status.phase == "Failed"
    assert conditions(world.status)["Failed"] == ("True", "MaxRestartsExceeded")
    assert conditions(world.status)["Stalled"] == ("True", "MaxRestartsExceeded")
    assert world.status.attempt == 2
    assert "2 restarts within 3600 s and failurePolicy.maxRestarts is 2" in message(world.status, ConditionType.FAILED)
    assert not [view for view in world.pods.values() if view.live and not view.terminating], "no GPU is held"


def test_restarts_outside_the_window_are_forgiven() -> None:
    world = started(failurePolicy={"maxRestarts": 1, "windowSeconds": 100, "backoff": {"baseSeconds": 0}})
    for attempt in range(5):
        world.wait(100)
        world.end(f"train-0-{attempt}", 1)
        world.settle()
        world.bury()
        world.settle()
        world.run_pods()
        world.settle()
    assert world.status.phase == "Running"
    assert world.status.restarts is not None
    assert (world.status.restarts.total, world.status.restarts.counted) == (5, 1)


def test_a_job_born_suspended_has_never_run_and_says_so() -> None:
    """Kueue makes every job so: its first run is no resumption."""
    world = World(job(nodes=2, suspend=True))
    world.settle()
    assert message(world.status, ConditionType.SUSPENDED).startswith("spec.suspend is true and the job has never run")
    world.edit(suspend=False)
    world.settle()
    assert set(world.pods) == {"train-0-0", "train-1-0"}
    assert world.status.attempt == 0
    assert conditions(world.status)["Suspended"] == ("False", "NotSuspended")
    assert not [event for plan in world.log for event in plan.events]


def test_a_job_that_is_suspended_before_its_pods_are_told_has_run() -> None:
    """Names of pods that were there are not used again, though nothing had been said about them yet."""
    world = World(job())
    world.step()
    world.step()
    assert world.status.start_time is None
    assert world.pods
    world.edit(suspend=True)
    world.settle()
    world.bury()
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert set(world.pods) == {"train-0-1"}


def test_suspend_and_resume() -> None:
    world = started(nodes=2)
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase == "Suspending"
    assert all(view.terminating for view in world.pods.values())
    world.end("train-0-0", 143)
    world.end("train-1-0", 0)
    world.bury()
    world.settle()
    assert world.status.phase == "Suspended"
    assert conditions(world.status)["Suspended"] == ("True", "Suspended")
    assert conditions(world.status)["Stalled"][0] == "False"
    assert world.others == {"PersistentVolumeClaim train-workspace"}, "the workspace is kept"

    world.edit(suspend=False)
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    world.run_pods()
    world.settle()
    assert conditions(world.status)["Suspended"] == ("False", "NotSuspended")
    assert world.status.restarts is not None
    assert world.status.restarts.total == 0, "a suspension is no restart"


def test_resumed_before_the_pods_are_gone() -> None:
    world = started(nodes=2)
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert (world.status.attempt, world.status.reason) == (1, "StoppingPods")
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1", "train-1-1"}
    assert world.status.restarts is not None
    assert world.status.restarts.by_cause == {}


@pytest.mark.parametrize(("count", "names"), [(3, {"train-0-1", "train-1-1", "train-2-1"}), (1, {"train-0-1"})])
def test_resize(count: int, names: set[str]) -> None:
    world = started(nodes=2)
    world.edit(nodes={"count": count})
    world.settle()
    assert all(view.terminating for view in world.pods.values())
    world.bury()
    world.settle()
    assert set(world.pods) == names
    assert world.status.resolved is not None
    assert world.status.resolved.nodes == count
    assert world.status.restarts is not None
    assert world.status.restarts.total == 0


OTHER = {"spec": {"containers": [{"name": "trainer", "image": "trainer:2"}]}}


def test_pods_that_run_are_stopped_only_for_some_that_may_be_made() -> None:
    world = started(nodes=2, output=OUTPUT)
    world.edit(template=OTHER, nodes={"count": 3})
    decision = world.step()
    assert tried(decision) == ["Pod train-0-1", "Pod train-publish-0"], "of each kind of pod one is asked for"
    (pod, publisher_) = (write.body for write in decision.writes if isinstance(write, DryRun))
    assert pod["spec"]["containers"][0]["image"] == "trainer:2"
    assert publisher_["metadata"]["labels"]["aifactory.dev/role"] == "publish"
    assert decision.status.attempt == 1, "written only if the API server agrees"


@pytest.mark.parametrize("how", ["failed", "deleted"])
def test_what_does_not_run_well_is_not_kept_for_an_edit_that_may_be_refused(how: str) -> None:
    world = started(nodes=2)
    if how == "failed":
        world.end("train-1-0", 1)
    else:
        del world.pods["train-1-0"]
    world.edit(template=OTHER)
    decision = world.step()
    assert (tried(decision), decision.status.attempt) == ([], 1)


def test_pods_that_have_ended_are_not_kept_for_an_edit_either() -> None:
    """The status, which told how many there were, is lost: one that was left over held the next attempt back."""
    world = started(nodes=2)
    world.end("train-0-0", 0)
    del world.pods["train-1-0"]
    world.lose_status()
    world.edit(template=OTHER)
    decision = world.step()
    assert (tried(decision), decision.status.attempt) == ([], 1)


REFUSED = BadRequest(400, "BadRequest", 'unknown field "spec.x"')
FULL = Forbidden(403, "Forbidden", 'pods "train-0-1" is forbidden: exceeded quota: team')


def refuse(world: World, error: ApiError) -> Plan[TrainingJobStatus]:
    """The API server answers to what the job's next plan asks."""
    observed = world.observed()
    errors = [WriteError(write, error) for write in decide(observed, world.now).writes if isinstance(write, DryRun)]
    return Training(world.settings).refused(observed, errors, world.now)


@pytest.mark.parametrize("count", [2, 3])
def test_an_edit_that_is_refused_is_told_and_nothing_is_stopped(count: int) -> None:
    world = started(nodes=2)
    world.edit(template=OTHER, nodes={"count": count})
    status = refuse(world, REFUSED).status
    assert (status.attempt, status.phase, status.reason) == (0, "Running", "PodRejected")
    assert conditions(status)["Running"][0] == "True"
    assert conditions(status)["Stalled"] == ("True", "PodRejected")
    assert message(status) == (
        'the spec was edited and the API server refuses its pods: Pod train-0-1: unknown field "spec.x"; those of '
        "attempt 0 run on as they are until the edit is corrected or taken back"
    )


def test_a_job_whose_status_was_lost_has_a_phase_also_beside_a_refused_edit() -> None:
    world = started(nodes=2)
    world.lose_status()
    world.edit(template=OTHER, nodes={"count": 3})
    assert refuse(world, REFUSED).status.phase == "Pending"


def test_pods_that_come_up_beside_a_refused_edit_are_told_of() -> None:
    world = World(job(nodes=2))
    world.settle()
    world.edit(template=OTHER)
    assert refuse(world, REFUSED).status.phase == "Starting"
    world.run_pods()
    status = refuse(world, REFUSED).status
    assert (status.phase, conditions(status)["Running"][0]) == ("Running", "True")
    assert conditions(status)["Stalled"] == ("True", "PodRejected")


def test_a_quota_that_the_job_itself_fills_keeps_no_edit_back() -> None:
    world = started(nodes=2)
    world.edit(template=OTHER)
    plan = refuse(world, FULL)
    assert (plan.status.attempt, plan.writes, plan.urgent) == (1, (), True)


def test_a_publisher_that_may_not_be_made_is_told_before_anything_trains() -> None:
    status = refuse(World(job(output=OUTPUT)), REFUSED).status
    assert (status.phase, status.reason) == ("Pending", "PodRejected")
    assert message(status) == 'Pod train-publish-0: unknown field "spec.x"'
    assert status.output is None, "it is asked again"


def test_a_template_change_during_a_backoff_costs_no_attempt() -> None:
    world = started()
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    world.edit(template=OTHER)
    world.settle()
    assert world.status.reason == "BackOff"
    world.wait(10)
    world.settle()
    assert {name for name, view in world.pods.items() if view.live} == {"train-0-1"}


def test_a_change_and_back_again_restarts_twice_at_most() -> None:
    world = started()
    first = world.job.spec.template.dump()
    world.edit(template=OTHER)
    world.step()
    world.edit(template=first)
    world.settle()
    world.bury()
    world.settle()
    assert set(world.pods) == {"train-0-1"}


def test_a_lost_status_is_healed() -> None:
    """Restored from a backup without status: pods of attempt 1 are there, the job says attempt 0."""
    world = started(failurePolicy={"backoff": {"baseSeconds": 0}})
    world.end("train-0-0", 1)
    world.settle()
    world.bury()
    world.settle()
    world.run_pods()
    world.settle()
    world.job = world.job.model_copy(update={"status": TrainingJobStatus()})
    world.settle()
    assert (world.status.attempt, world.status.phase) == (1, "Running")
    assert {name for name, view in world.pods.items() if view.live} == {"train-0-1"}


def test_pods_that_are_cleaned_up_after_success_are_not_made_again() -> None:
    world = started(nodes=2, output=OUTPUT)
    succeed(world)
    world.settle()
    world.pods.clear()
    world.settle()
    assert not world.pods
    assert world.status.nodes is not None
    assert world.status.nodes.summary == "2/2"
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_version_number_is_the_next_free_one() -> None:
    world = started(output=OUTPUT)
    world.versions = {f"v{n}": VersionView(f"v{n}", n, "other") for n in (1, 7, 3)}
    succeed(world)
    world.settle()
    world.end_publisher(PUBLISHED)
    world.settle()
    assert "tiny-v8" in world.versions


def test_a_version_that_was_registered_before_a_crash_is_found_again() -> None:
    world = started(output=OUTPUT)
    world.versions["tiny-v4"] = VersionView("tiny-v4", 4, UID)
    succeed(world)
    world.settle()
    assert not world.publishers
    assert world.status.output is not None
    assert world.status.output.model_version == "tiny-v4"


def publishing(**spec: Any) -> World:
    world = started(output=OUTPUT, **spec)
    succeed(world)
    world.settle()
    return world


@pytest.mark.parametrize("reason", ["StoreUnavailable", "StoreFull", "AccessDenied"])
def test_a_store_that_does_not_take_the_model_is_waited_for(reason: str) -> None:
    """Hours of training must not be lost because a bucket was down when they ended."""
    world = publishing()
    waits = []
    for number in range(12):
        assert set(world.publishers) == {f"train-publish-{number}"}
        world.end_publisher({"reason": reason, "message": f"bucket: {reason}"}, 1)
        world.settle()
        assert conditions(world.status)["Stalled"] == ("True", reason)
        assert f"bucket: {reason}; it is tried again at" in message(world.status)
        again = world.log[-1].requeue_after
        assert again is not None
        waits.append(again)
        world.wait(again - 10)
        world.settle()
        assert world.log[-1].requeue_after == 10, "asking again does not prolong the wait"
        world.wait(10)
        world.settle()
    assert waits == [30, *[45] * 11], "no fast pace, and within a minute of being mended it goes on"
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert conditions(world.status)["Stalled"][0] == "False"


def test_a_number_whose_version_was_deleted_is_not_given_again() -> None:
    """A pool that is pinned to it would serve another artifact."""
    world = publishing()
    world.versions = {"tiny-v1": VersionView("tiny-v1", 1, "other")}
    world.highest_version = 4
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.output is not None
    assert world.status.output.model_version == "tiny-v5"


@pytest.mark.parametrize("reason", ["InvalidArtifact", "SourceNotFound"])
@pytest.mark.parametrize("how", ["edit", "annotation"])
def test_what_a_person_can_mend_waits_and_is_published_when_asked(reason: str, how: str) -> None:
    """The weights are in the workspace: a job that ended here would throw days of training away."""
    world = publishing()
    world.end_publisher({"reason": reason, "message": "no config.json"}, 1)
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Publishing", reason)
    assert conditions(world.status)["Stalled"] == ("True", reason)
    assert "Failed" not in conditions(world.status)
    words = "pod train-publish-0: no config.json; what was trained waits in the workspace: mend it there, then "
    assert message(world.status) == (
        f"{words}kubectl annotate trainingjob train --overwrite aifactory.dev/retry=<anything new>"
    )
    world.wait(1e6)
    world.settle()
    assert set(world.publishers) == {"train-publish-0"}, "no other try changes what is there"
    if how == "edit":
        world.edit(failurePolicy={"maxRestarts": 1})
    else:
        world.annotate("aifactory.dev/retry", "now")
    world.settle()
    assert set(world.publishers) == {"train-publish-1"}
    assert conditions(world.status)["Stalled"][0] == "False"
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_publisher_at_work_is_not_disturbed_by_an_edit() -> None:
    world = publishing()
    world.annotate("aifactory.dev/retry", "now")
    world.settle()
    assert set(world.publishers) == {"train-publish-0"}


def test_a_try_that_waits_is_made_at_once_when_asked() -> None:
    world = publishing()
    world.end_publisher({"reason": "AccessDenied", "message": "403"}, 1)
    world.settle()
    world.annotate("aifactory.dev/retry", "the Secret is right now")
    world.settle()
    assert set(world.publishers) == {"train-publish-1"}


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("", 1, "see: kubectl logs train-publish-"),
        ({"reason": "SomethingNew", "message": "odd"}, 1, "odd"),
        ("done", 0, "done"),
        ({"uri": 7, "digest": None}, 0, '{"uri": 7'),
        ("[1]", 0, "[1]"),
    ],
)
def test_a_publisher_without_a_known_reason_is_tried_again_for_ever(answer: Any, code: int, words: str) -> None:
    """Hours of training are not thrown away because the pods that copy the result keep dying."""
    world = publishing()
    for number in range(12):
        assert set(world.publishers) == {f"train-publish-{number}"}
        world.end_publisher(answer, code)
        world.settle()
        assert conditions(world.status)["Stalled"] == ("True", "PublisherFailed")
        assert words in message(world.status)
        world.wait(world.log[-1].requeue_after or 0)
        world.settle()
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_publisher_that_was_evicted_is_no_fault_of_anybody() -> None:
    world = publishing()
    world.end_publisher("The node was low on resource: memory.", 137, end_reason="Evicted")
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Disruption")
    assert "ended from outside (Evicted): The node was low on resource" in message(world.status)


def test_a_publisher_on_a_dead_node_is_given_up_at_once() -> None:
    """It stays terminating until somebody removes its node, which may be never."""
    world = publishing()
    world.publishers["train-publish-0"] = replace(world.publishers["train-publish-0"], terminating=True)
    world.settle()
    assert set(world.publishers) == {"train-publish-0", "train-publish-1"}
    world.publishers.pop("train-publish-0")
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_model_of_another_format_than_asked_for_waits_for_the_right_word() -> None:
    world = publishing()
    world.end_publisher({**PUBLISHED, "format": "torch-export"})
    world.settle()
    assert conditions(world.status)["Stalled"] == ("True", "FormatMismatch")
    assert "format torch-export and output.model.format is huggingface" in message(world.status)
    assert "set output.model.format to torch-export" in message(world.status)
    assert not world.versions
    world.edit(output={"model": {"name": "tiny", "format": "torch-export"}})
    world.settle()
    assert world.status.phase == "Succeeded"
    assert set(world.publishers) == {"train-publish-0"}, "what was copied is right"


def test_a_model_of_another_format_that_was_replaced_is_copied_again() -> None:
    world = publishing()
    world.end_publisher({**PUBLISHED, "format": "torch-export"})
    world.settle()
    world.annotate("aifactory.dev/retry", "1")
    world.settle()
    assert set(world.publishers) == {"train-publish-1"}


@pytest.mark.parametrize(
    ("changes", "stalled", "words"),
    [
        ({}, ("False", "Publishing"), "copies /workspace/output to the model store"),
        ({"unschedulable": "no node"}, ("False", "Unschedulable"), "pod train-publish-0 has no node: no node"),
        (
            {"waiting_reason": "ErrImagePull", "waiting_message": "not found"},
            ("True", "ImagePullFailed"),
            "pod train-publish-0: not found; check the image name",
        ),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "s3" not found'},
            ("True", "ContainerConfigError"),
            'secret "s3" not found',
        ),
    ],
)
def test_a_publisher_that_waits_says_why(changes: dict[str, str], stalled: tuple[str, str], words: str) -> None:
    world = publishing()
    world.publishers["train-publish-0"] = replace(world.publishers["train-publish-0"], **changes)
    world.settle()
    assert conditions(world.status)["Stalled"] == stalled
    assert conditions(world.status)["Reconciling"][0] == ("True" if stalled[0] == "False" else "False")
    assert words in message(world.status)


def test_a_publisher_that_is_deleted_is_made_again() -> None:
    world = publishing()
    world.publishers.clear()
    world.settle()
    assert set(world.publishers) == {"train-publish-0"}


def test_a_suspension_does_not_stop_publishing() -> None:
    world = publishing()
    world.edit(suspend=True)
    world.settle()
    world.end_publisher(PUBLISHED)
    world.settle()
    assert world.status.phase == "Succeeded"


ACTIONS = st.sampled_from(
    [
        "run",
        "bury",
        "wait",
        "fail",
        "oom",
        "evict",
        "delete",
        "succeed",
        "suspend",
        "resume",
        "grow",
        "shrink",
        "report",
    ]
)


@settings(max_examples=40)
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 2), st.booleans()), max_size=25), st.booleans())
def test_whatever_happens_the_job_comes_to_rest_and_tells_the_truth(
    actions: list[tuple[str, int, bool]], gangs: bool
) -> None:
    """Any interleaving ends in a stable state; the world itself refuses a pod name that is used twice."""
    world = World(job(nodes=2, output=OUTPUT, failurePolicy={"maxRestarts": 2}))
    if gangs:
        world.gangs_served = True
    before = world.status
    for action, index, settle in actions:
        _act(world, action, index)
        world.settle() if settle else world.step()
        _check_transitions(before, world.status)
        assert world.status.attempt >= before.attempt, "the attempt never falls"
        before = world.status
    world.settle()
    attempts = {view.attempt for view in world.pods.values() if view.live and not view.terminating}
    assert len(attempts) <= 1, "pods of two attempts never live together"
    found = conditions(world.status)
    assert not (found["Ready"][0] == "True" and found["Stalled"][0] == "True")
    assert [found[type_][0] for type_ in ("Ready", "Reconciling", "Stalled")].count("True") <= 1
    if found["Ready"][0] == "True" and world.status.phase == "Running":
        current = [view for view in world.pods.values() if view.attempt == world.status.attempt]
        assert all(view.running or view.succeeded for view in current), "beside them some are kept for their logs"


def _act(world: World, action: str, index: int) -> None:
    names = [name for name, view in world.pods.items() if view.live and not view.terminating]
    name = names[index % len(names)] if names else None
    if action == "run":
        world.run_pods()
    elif action == "bury":
        world.bury()
    elif action == "wait":
        world.wait(400)
    elif action in ("suspend", "resume"):
        world.edit(suspend=action == "suspend")
    elif action in ("grow", "shrink"):
        world.edit(nodes={"count": 3 if action == "grow" else 1})
    elif action == "report":
        world.progress = report(index * 10, attempt=world.status.attempt, at=world.now, total_steps=100)
    elif name is None:
        return
    elif action == "delete":
        del world.pods[name]
    elif action == "evict":
        world.end(name, 137, disruption="EvictionByEvictionAPI: drained")
    else:
        code = {"fail": 1, "oom": 137, "succeed": 0}[action]
        world.end(name, code, exit_reason="OOMKilled" if action == "oom" else "")


def _check_transitions(before: TrainingJobStatus, after: TrainingJobStatus) -> None:
    """A condition's time moves exactly when its status flips."""
    old = {found.type: found for found in before.conditions}
    for found in after.conditions:
        previous = old.get(found.type)
        if previous is not None:
            moved = previous.last_transition_time != found.last_transition_time
            assert not moved or previous.status != found.status, found


@given(st.integers(0, 5), st.booleans())
def test_a_status_survives_the_way_through_json(steps: int, gangs: bool) -> None:
    world = World(job(nodes=2), gangs_served=gangs)
    world.now = NOW.replace(microsecond=123456)
    for _ in range(steps):
        world.step()
        world.run_pods()
    text = json.dumps(world.status.dump())
    assert TrainingJobStatus.model_validate(json.loads(text)) == world.status
