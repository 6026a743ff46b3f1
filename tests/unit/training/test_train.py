"""The stage that trains, where the table of decisions is too coarse."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.training.prepare import next_pods
from aifactory.training.state import GangView, ProgressReport
from tests.unit.plans import created
from tests.unit.training.builders import GANGS, NOW, OUTPUT, decide, job, observe, pod, report
from tests.unit.training.test_plan import condition

EARLY = NOW.replace(microsecond=999_999)


def test_times_are_written_to_the_second() -> None:
    """What is written is what comes back: the API server keeps no more."""
    status = decide(observe(job(), pod(exit_code=1)), EARLY).status
    assert status.last_failure is not None
    assert status.last_failure.time == NOW
    assert status.restarts is not None
    assert status.restarts.next_attempt_time == NOW + timedelta(seconds=10)


def test_an_edit_before_there_are_pods_asks_for_none() -> None:
    """There is nothing that runs well and could be kept if they are refused."""
    decision = decide(observe(job(nodes=3), gangs=(GangView("train-0", "g", 0, 2),), **GANGS))
    assert (decision.status.attempt, decision.writes) == (1, ())


def test_the_publisher_that_is_asked_for_is_the_next_one() -> None:
    asked = [
        [write.body["metadata"]["name"] for write in next_pods(observe(job(output=OUTPUT, status=status)))]
        for status in ({}, {"output": {"publishAttempt": 3}})
    ]
    assert asked == [["train-0-1", f"train-publish-{number}"] for number in (0, 3)]


def failed_after(status: dict[str, Any], progress: ProgressReport | None = None, **changes: Any) -> TrainingJobStatus:
    """The status of a job whose pod has just failed."""
    view = replace(pod(exit_code=1), **changes)
    return decide(observe(job(status=status), view, progress=progress)).status


CHECKPOINT = {"step": 20, "path": "c", "time": NOW}
REACHED = {"attempt": 0, "step": 30, "summary": "step 30", "lastHeartbeatTime": NOW}


@pytest.mark.parametrize(
    ("status", "progress", "step"),
    [
        ({}, None, 0),
        ({"progress": REACHED}, None, 30),
        ({"progress": REACHED}, report(40), 40),
        ({"progress": REACHED, "checkpoint": CHECKPOINT}, None, 20),
        ({"progress": REACHED, "checkpoint": CHECKPOINT}, report(90), 20),
        ({"progress": REACHED, "checkpoint": CHECKPOINT}, report(90, checkpoint_step=25), 25),
        ({}, report(90, checkpoint_step=25), 25),
    ],
)
def test_progress_is_how_far_a_restart_goes_back(status: Any, progress: ProgressReport | None, step: int) -> None:
    """A program that saves nothing is measured by what it has reached."""
    restarts = failed_after(status, progress).restarts
    assert restarts is not None
    assert restarts.furthest_step == step


DONE = {"progress": {**REACHED, "totalSteps": 30}}


@pytest.mark.parametrize(
    ("status", "progress", "cause"),
    [
        ({}, report(30, total_steps=30), "AbortedAtEnd"),
        (DONE, None, "AbortedAtEnd"),
        ({}, report(29, total_steps=30), "ApplicationError"),
        ({"progress": REACHED}, None, "ApplicationError"),
        ({"attempt": 1}, report(30, total_steps=30), "ApplicationError"),
        ({"attempt": 1, **DONE}, None, "ApplicationError"),
    ],
    ids=["reported", "written", "not yet", "without an end", "reported by an earlier attempt", "written for one"],
)
def test_an_abort_is_at_the_end_when_this_attempt_has_no_step_left(status: Any, progress: Any, cause: str) -> None:
    last = failed_after(status, progress, exit_code=134, attempt=status.get("attempt", 0)).last_failure
    assert last is not None
    assert last.cause == cause


LAST = {"time": NOW, "attempt": 0, "pod": "train-1-0", "node": "node-1", "index": 1}
LAST |= {"container": "", "exitCode": 1, "reason": "", "cause": "ApplicationError", "message": "exit code 1"}
COUNTED = {"total": 1, "counted": 1, "byCause": {"ApplicationError": 1}, "countedTimes": [NOW]}


def test_a_disruption_soon_after_a_failure_waits() -> None:
    waits = []
    for seconds in (30, 90):
        last = {**LAST, "time": NOW - timedelta(seconds=seconds)}
        restarts = failed_after({"lastFailure": last}, disruption="drained").restarts
        assert restarts is not None
        waits.append(restarts.next_attempt_time)
    assert waits == [NOW + timedelta(seconds=10), None]


def test_the_container_that_failed_is_on_record() -> None:
    last = failed_after({}, container="fetch").last_failure
    assert last is not None
    assert last.container == "fetch"


def test_pods_that_are_there_already_wait_for_no_one() -> None:
    """The wait is before an attempt: one whose first pod exists is brought up."""
    two = job(nodes=2)
    waits = {"attempt": 1, "restarts": {"nextAttemptTime": NOW + timedelta(seconds=7)}}
    plan = decide(observe(job(nodes=2, status=waits), pod(0, 1, of=two)))
    assert created(plan) == ["Pod train-1-1"]


def stopping(last: dict[str, Any], *, attempt: int = 1, of_attempt: int = 0, **restarts: Any) -> TrainingJobStatus:
    """Pod 0 of an attempt that has failed is on a node that is lost."""
    status = {"attempt": attempt, "lastFailure": {**LAST, **last}, "restarts": {**COUNTED, **restarts}}
    view = pod(0, of_attempt, running=True, node="node-0")
    return decide(observe(job(nodes=2, status=status), view, lost_nodes={"node-0": "is gone"})).status


def test_a_failure_on_another_node_than_the_lost_one_is_forgiven() -> None:
    status = stopping({})
    assert status.restarts is not None
    assert (status.restarts.counted, status.restarts.by_cause) == (0, {"Disruption": 1})
    assert status.last_failure is not None
    assert (status.last_failure.cause, status.last_failure.pod) == ("Disruption", "train-1-0")
    assert status.last_failure.message == "node node-0 of pod train-0-0 is gone; pod train-1-0 then: exit code 1"


@pytest.mark.parametrize(
    "changes",
    [
        {"last": {"node": "node-0"}},
        {"last": {"cause": "NodeRefused"}},
        {"last": {"cause": "Disruption"}},
        {"last": {}, "attempt": 2},
        {"last": {"attempt": 1}, "attempt": 2},
        {"last": {}, "countedTimes": []},
    ],
    ids=["the same node", "not counted", "a disruption", "an older failure", "an older pod", "none on record"],
)
def test_any_other_failure_stays_as_it_was_counted(changes: dict[str, Any]) -> None:
    status = stopping(**changes)
    assert status.restarts is not None
    assert status.restarts.by_cause == {"ApplicationError": 1}
    assert status.last_failure is not None
    assert status.last_failure.message == "exit code 1"


def test_pods_on_a_lost_node_stop_for_a_job_that_has_never_failed() -> None:
    view = pod(running=True, node="node-0")
    plan = decide(observe(job(status={"attempt": 1}), view, lost_nodes={"node-0": "is gone"}))
    assert (plan.status.reason, plan.status.last_failure) == ("StoppingPods", None)


@pytest.mark.parametrize("cause", ["OutOfMemory", "InitContainerFailed", "ContainerConfigError", "DeadlineExceeded"])
def test_whatever_is_counted_can_be_forgiven(cause: str) -> None:
    status = stopping({"cause": cause}, byCause={cause: 1})
    assert status.restarts is not None
    assert status.restarts.by_cause == {"Disruption": 1}


def test_a_suspension_is_told_at_once_and_then_looked_at_when_a_pod_is_late() -> None:
    due = NOW + timedelta(seconds=30)
    view = pod(running=True, terminating=True, due_to_end=due)
    first = decide(observe(job(suspend=True), view))
    assert (first.urgent, first.requeue_after) == (True, 90)
    second = decide(observe(job(suspend=True, status=first.status.dump()), view))
    assert (second.urgent, second.requeue_after) == (False, 90)


@pytest.mark.parametrize(
    ("status", "others", "attempt"),
    [
        ({}, {}, 0),
        ({"startTime": NOW}, {}, 1),
        ({"attempt": 1}, {}, 2),
        ({"resolved": {"nodes": 1, "createdAttempt": 0}}, {}, 1),
        ({}, {"pods": (pod(of=job(nodes=2)),)}, 1),
        ({}, {**GANGS, "gangs": (GangView("train-0", "g", 0, 2),)}, 1),
    ],
    ids=["never", "started", "attempts", "created", "pods", "a gang"],
)
def test_what_has_run_before_a_suspension_runs_under_new_names(status: Any, others: Any, attempt: int) -> None:
    owner = job(nodes=2, status={**status, "conditions": [condition("Suspended")]})
    assert decide(observe(owner, **others)).status.attempt == attempt


def test_why_pods_are_replaced_is_told_by_what_was_resolved_for_them() -> None:
    old = pod(0, running=True, of=job(nodes=2))

    def words(resolved: dict[str, Any] | None) -> str:
        return decide(observe(job(status={"resolved": resolved} if resolved else {}), old)).events[0].message

    assert words({"nodes": 2}) == "attempt 1 starts: spec.nodes.count changed from 2 to 1"
    for resolved in ({"nodes": 1}, {"nodes": 0}, None):
        assert words(resolved) == "attempt 1 starts: the pod settings in spec changed"


def test_a_gang_of_an_earlier_attempt_says_nothing_about_this_one() -> None:
    two = job(nodes=2, status={"attempt": 1})
    gangs = (GangView("train-0", "g", 0, 9), GangView("train-1", "h", 1, 2))
    assert decide(observe(two, gangs=gangs, gangs_served=True)).status.attempt == 1
