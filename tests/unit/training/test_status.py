"""What is written to status where the table of decisions does not look: counts, times and the order of troubles."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import NodeCounts, TrainingJob
from aifactory.engine.refusals import Refusal
from aifactory.training.state import GangView, PodView
from aifactory.training.status import StatusDraft
from tests.unit.training.builders import GANGS, NOW, conditions, decide, job, message, observe, pod, report
from tests.unit.training.test_plan import condition

EARLY = NOW.replace(microsecond=999_999)
HOUR_AGO = NOW - timedelta(hours=1)


def counts(owner: TrainingJob, *pods: PodView) -> tuple[NodeCounts | None, int | None]:
    status = StatusDraft(observe(owner, *pods), pods, NOW).result()
    return status.nodes, status.replicas


def test_pods_are_counted_by_what_their_trainers_do() -> None:
    pods = (
        pod(0, running=True),
        pod(1),
        pod(2, running=True, exit_code=0, phase="Running"),
        pod(3, running=True, terminating=True),
        pod(4, exit_code=1),
        pod(5, exit_code=0),
    )
    assert counts(job(nodes=7), *pods) == (
        NodeCounts(desired=7, active=4, ready=1, succeeded=2, failed=1, summary="3/7"),
        6,
    )


def test_a_job_that_was_made_smaller_is_not_done_because_nodes_it_no_longer_has_are() -> None:
    nodes, _ = counts(job(), pod(0, running=True), pod(1, exit_code=0))
    assert nodes == NodeCounts(desired=1, active=1, ready=1, succeeded=0, failed=0, summary="1/1")


def test_that_all_have_succeeded_stays_whatever_becomes_of_the_pods() -> None:
    done = {"desired": 2, "succeeded": 2, "summary": "2/2"}
    assert counts(job(nodes=5, status={"nodes": done})) == (NodeCounts.model_validate(done), 0)
    part = {"desired": 2, "succeeded": 1, "summary": "1/2"}
    assert counts(job(nodes=2, status={"nodes": part}))[0] == NodeCounts(desired=2, summary="0/2")


def test_a_job_starts_with_its_first_pod() -> None:
    assert decide(observe(job(nodes=2))).status.start_time is None
    assert decide(observe(job(nodes=2), pod(of=job(nodes=2)))).status.start_time == NOW
    stopped = job(suspend=True)
    assert decide(observe(stopped, pod(running=True))).status.start_time == NOW, "it has had pods"
    later = job(suspend=True, status={"startTime": HOUR_AGO})
    assert decide(observe(later, pod(running=True))).status.start_time == HOUR_AGO


def test_of_several_pods_in_trouble_the_lowest_index_is_told() -> None:
    trouble = {"waiting_reason": "ErrImagePull", "waiting_message": "not found"}
    two = job(nodes=2)
    status = decide(observe(two, pod(1, of=two, **trouble), pod(0, of=two, **trouble))).status
    assert message(status).startswith("pod train-0-0: not found")


@pytest.mark.parametrize(
    ("name", "words"), [("default-scheduler", ""), ("volcano", "; no scheduler has looked at 2 yet")]
)
def test_pods_that_a_scheduler_of_the_users_choice_overlooks_are_counted(name: str, words: str) -> None:
    container = {"name": "trainer", "image": "t"}
    own = job(nodes=3, template={"spec": {"schedulerName": name, "containers": [container]}})
    pods = (pod(0, of=own, unseen=True), pod(1, of=own, unseen=True), pod(2, of=own))
    assert message(decide(observe(own, *pods)).status).partition(":")[0] == f"0 of 3 pods run{words}"
    seen = tuple(replace(view, unseen=False) for view in pods)
    assert message(decide(observe(own, *seen)).status) == "0 of 3 pods run"


def test_the_words_about_a_pod_come_before_those_about_its_gang() -> None:
    two = job(nodes=2)
    gang = GangView("train-0", "g", 0, 2, unschedulable="of the gang")
    pods = (pod(0, of=two), pod(1, of=two, unschedulable="of the pod"))
    assert ": of the pod; " in message(decide(observe(two, *pods, gangs=(gang,), **GANGS)).status)
    other = GangView("train-1", "h", 0, 2)
    without = tuple(replace(view, unschedulable="") for view in pods)
    assert ": of the gang; " in message(decide(observe(two, *without, gangs=(other, gang), **GANGS)).status)


def test_pods_are_scheduled_when_each_that_lives_has_a_node() -> None:
    two = job(nodes=2, status={"resolved": {"nodes": 2, "createdAttempt": 0}})

    def scheduled(*pods: PodView) -> str:
        return conditions(decide(observe(two, *pods)).status).get("Scheduled", ("", ""))[0]

    assert scheduled(pod(0, of=two, node="a"), pod(1, of=two)) == ""
    starting = decide(observe(two, pod(0, of=two, node="a"), pod(1, of=two, node="b"))).status
    assert (starting.phase, starting.reason) == ("Starting", "WaitingForPods"), "all have a node and do not run yet"
    assert scheduled(pod(0, of=two, node="a"), pod(1, of=two, exit_code=0, node="")) == "True"
    assert scheduled(pod(0, of=two, node="a"), pod(1, of=two, exit_code=0, node="", phase="Running")) == ""


def test_the_last_report_of_a_suspended_job_is_told_without_waiting() -> None:
    """Nothing wakes the job for it later."""
    owner = job(suspend=True)
    first = decide(observe(owner, progress=report(1)))
    written = owner.model_copy(update={"status": first.status})
    at = NOW + timedelta(seconds=3)
    progress = decide(observe(written, progress=report(5, at=at)), at).status.progress
    assert progress is not None
    assert progress.step == 5


def test_a_refusal_is_written_to_the_second() -> None:
    draft = StatusDraft(observe(job(), pod()), (pod(),), EARLY)
    draft.refused(Refusal(Reason.QUOTA_EXCEEDED, "Pod train-0-0: exceeded quota", stalled=False))
    assert {found.last_transition_time for found in draft.result().conditions} == {NOW}


def test_a_publisher_that_is_refused_after_the_pods_were_cleaned_up_is_told_as_one() -> None:
    done = {"desired": 1, "succeeded": 1}
    draft = StatusDraft(observe(job(status={"nodes": done})), (), NOW)
    draft.refused(Refusal(Reason.POD_SECURITY_VIOLATED, "Pod train-publish-0: no"))
    status = draft.result()
    assert (status.phase, conditions(status)["Stalled"]) == ("Publishing", ("True", "PodSecurityViolated"))


def test_a_name_that_is_taken_is_told_with_both_ways_out() -> None:
    draft = StatusDraft(observe(job()), (), NOW)
    draft.name_taken("Service train-nodes", "kubectl delete svc train-nodes")
    assert draft.result().phase == "Pending"
    assert message(draft.result()) == (
        "Service train-nodes exists and does not belong to this job; if an earlier job of this name is being deleted "
        "it goes by itself, else rename one of them, or, if nobody needs it: kubectl delete svc train-nodes"
    )


@pytest.mark.parametrize(
    ("status", "reason", "told"), [("True", "Suspended", "False"), ("False", "NotSuspended", "False")]
)
def test_a_job_that_runs_is_not_suspended(status: str, reason: str, told: str) -> None:
    """Its condition moves once, when it goes on."""
    before: dict[str, Any] = {
        "type": "Suspended",
        "status": status,
        "reason": reason,
        "lastTransitionTime": HOUR_AGO,
        "observedGeneration": 1,
    }
    found = decide(observe(job(generation=2, status={"conditions": [before]}))).status.conditions
    (suspended,) = (entry for entry in found if entry.type == ConditionType.SUSPENDED)
    assert (suspended.status, suspended.reason) == (told, "NotSuspended")
    assert suspended.last_transition_time == (NOW if status == "True" else HOUR_AGO)
    assert suspended.observed_generation == (2 if status == "True" else 1)


def test_a_failed_job_tells_when_it_ended_and_keeps_its_other_counts() -> None:
    owner = job(nodes=3, failurePolicy={"maxRestarts": 0})
    pods = (pod(0, of=owner, running=True), pod(1, of=owner, exit_code=1), pod(2, of=owner, exit_code=0))
    status = decide(observe(owner, *pods)).status
    assert status.completion_time == NOW
    assert status.nodes == NodeCounts(desired=3, active=0, ready=0, succeeded=1, failed=1, summary="1/3")


def test_a_job_whose_pods_were_cleaned_up_before_it_could_be_told_has_succeeded() -> None:
    done = {"desired": 2, "succeeded": 2, "summary": "2/2"}
    status = decide(observe(job(nodes=4, status={"nodes": done}))).status
    assert status.nodes == NodeCounts.model_validate(done)
    one = decide(observe(job(), pod(exit_code=0, phase="Running"))).status  # a side container lives on
    assert one.nodes == NodeCounts(desired=1, succeeded=1, summary="1/1")
    assert one.completion_time == NOW


def test_a_status_without_counts_says_nothing_about_success() -> None:
    """Written by hand, or by an operator that counted less."""
    assert decide(observe(job(status={"nodes": {}}))).status.phase == "Pending"


def test_a_suspended_job_keeps_no_verdict_of_the_scheduler() -> None:
    owner = job(suspend=True, status={"conditions": [condition("Scheduled", "False", "Unschedulable")]})
    assert "Scheduled" not in conditions(decide(observe(owner)).status)


def test_a_side_container_that_crashes_beside_a_trainer_that_succeeded_holds_nobody_up() -> None:
    two = job(nodes=2)
    done = pod(0, of=two, exit_code=0, phase="Running", waiting_reason="CrashLoopBackOff")
    status = decide(observe(two, done, pod(1, of=two))).status
    assert (status.reason, message(status)) == ("WaitingForPods", "1 of 2 pods run")


def test_a_job_that_is_being_deleted_neither_restarts_nor_waits_for_a_node() -> None:
    before = {"conditions": [condition("Restarting", reason="BackOff"), condition("Scheduled", "False")]}
    held = job(deleting=True, status=before)
    status = decide(observe(held)).status
    assert conditions(status)["Restarting"] == ("False", "StoppingPods")
    assert "Scheduled" not in conditions(status)
    assert message(status, ConditionType.RECONCILING) == (
        "the job is being deleted and none of its pods runs any more; it goes when these finalizers have: team/hold"
    )
    late = pod(running=True, terminating=True, due_to_end=HOUR_AGO)
    assert decide(observe(held, late)).status.phase == "Terminating"


def test_how_long_no_scheduler_has_looked_counts_from_when_pods_were_last_awaited() -> None:
    two = job(nodes=2)
    pods = pod(0, of=two, unseen=True), pod(1, of=two)
    ran = {**condition("Reconciling", "False"), "lastTransitionTime": HOUR_AGO}
    plan = decide(observe(job(nodes=2, status={"conditions": [ran]}), *pods))
    assert (message(plan.status), plan.requeue_after) == ("0 of 2 pods run", 60)
    first = decide(observe(two, *pods, progress=report(1)))
    at = NOW + timedelta(seconds=4)
    later = job(nodes=2, status=first.status.dump())
    assert decide(observe(later, *pods, progress=report(2, at=at)), at).requeue_after == 6, "a report is due earlier"


def test_the_newest_report_rides_along_whatever_else_is_written() -> None:
    running = job(status={"resolved": {"nodes": 1, "createdAttempt": 0}})
    first = decide(observe(running, pod(running=True), progress=report(1)))
    edited = job(generation=2, failurePolicy={"maxRestarts": 1}, status=first.status.dump())
    at = NOW + timedelta(seconds=3)
    status = decide(observe(edited, pod(running=True), progress=report(5, at=at)), at).status
    assert (status.observed_generation, status.phase) == (2, "Running")
    assert status.progress is not None
    assert status.progress.step == 5
