"""One look, one decision: a table of what is observed and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Create, WriteError
from aifactory.engine.refusals import Refusal
from aifactory.kube.errors import AlreadyExists
from aifactory.training.domain import Training
from aifactory.training.plan import plan_training
from aifactory.training.state import GangView, Observed
from aifactory.training.status import StatusDraft
from tests.unit.plans import bodies, created, removed
from tests.unit.training.builders import (
    GANGS,
    NOW,
    OUTPUT,
    SERVICE,
    SETTINGS,
    UID,
    conditions,
    decide,
    job,
    message,
    observe,
    pod,
    publisher,
)

TWO = job(nodes=2)
SEEN = {"resolved": {"nodes": 2, "createdAttempt": 0}}
STILL = {"withoutProgress": 0, "furthestStep": 0}
"""All pods of attempt 0 have been seen."""


def two(**status: Any) -> Any:
    return job(nodes=2, status={**SEEN, **status})


def condition(type_: str, status: str = "True", reason: str = "Testing") -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "lastTransitionTime": NOW - timedelta(hours=1),
        "observedGeneration": 1,
    }


PULL = {"waiting_reason": "ImagePullBackOff", "waiting_message": 'Back-off pulling image "trainer:1"'}
CONFIG = {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "s" not found'}
NO_NODE = {"unschedulable": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}


@dataclass(frozen=True)
class Case:
    """What is observed and what must follow; `None` means that it does not matter."""

    observed: Observed
    phase: str
    reason: str
    creates: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()
    attempt: int = 0
    ready: str = "False"
    reconciling: str = "True"
    stalled: str = "False"
    requeue_after: float | None = None
    words: str = ""


PODS = ("Pod train-0-0", "Pod train-1-0")
CASES = {
    "first look": Case(
        observe(TWO, service=None, workspace_exists=False),
        "Pending",
        "CreatingPods",
        creates=("PersistentVolumeClaim train-workspace", "Service train-nodes"),
        words="0 of 2 pods exist",
    ),
    "first look, gang": Case(
        observe(TWO, **GANGS, service=None, workspace_exists=False),
        "Pending",
        "CreatingPods",
        creates=("PersistentVolumeClaim train-workspace", "PodGroup train-0", "Service train-nodes"),
    ),
    "first look, one node": Case(
        observe(job(), **GANGS, service=None, workspace_exists=False),
        "Pending",
        "CreatingPods",
        creates=("PersistentVolumeClaim train-workspace",),
    ),
    "the claim is ours": Case(
        observe(TWO, **GANGS, service=None),
        "Pending",
        "CreatingPods",
        creates=("PodGroup train-0", "Service train-nodes"),
    ),
    "the Service is there": Case(observe(TWO, **GANGS), "Pending", "CreatingPods", creates=(*PODS, "PodGroup train-0")),
    "a claim of the user": Case(
        observe(job(workspace={"claimName": "mine"}), service=None, workspace_exists=False),
        "Pending",
        "CreatingPods",
        creates=("Pod train-0-0",),
    ),
    "partly created": Case(
        observe(TWO, pod(1, of=TWO)), "Pending", "CreatingPods", creates=("Pod train-0-0",), words="1 of 2 pods exist"
    ),
    "partly created, one runs": Case(
        observe(TWO, pod(1, of=TWO, running=True)), "Pending", "CreatingPods", creates=("Pod train-0-0",)
    ),
    "scaled down to one": Case(
        observe(job(), pod(0, running=True), service=SERVICE),
        "Running",
        "AllNodesReady",
        removes=("Service train-nodes",),
        ready="True",
        reconciling="False",
    ),
    "gangs of earlier attempts are left": Case(
        observe(
            two(attempt=2),
            **GANGS,
            gangs=(
                GangView("train-0", "f", 0, 2, terminating=True),
                GangView("train-1", "g", 1, 2),
                GangView("train-2", "h", 2, 2),
            ),
        ),
        "Pending",
        "CreatingPods",
        creates=("Pod train-0-2", "Pod train-1-2"),
        removes=("PodGroup train-1",),
        attempt=2,
    ),
    "resized before there are pods, the gang is there": Case(
        observe(TWO, **GANGS, gangs=(GangView("train-0", "g", 0, 3),)),
        "Restarting",
        "TemplateChanged",
        attempt=1,
        requeue_after=0,
    ),
    "no gang any more before there are pods": Case(
        observe(job(), **GANGS, gangs=(GangView("train-0", "g", 0, 2),)),
        "Restarting",
        "TemplateChanged",
        attempt=1,
        requeue_after=0,
    ),
    "the Service is gone": Case(
        observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO, running=True), service=None),
        "Running",
        "AllNodesReady",
        creates=("Service train-nodes",),
        ready="True",
        reconciling="False",
    ),
    "all created": Case(
        observe(TWO, pod(0, of=TWO), pod(1, of=TWO)), "Starting", "WaitingForPods", words="0 of 2 pods run"
    ),
    "one runs": Case(
        observe(TWO, pod(0, of=TWO, running=True), pod(1, of=TWO)),
        "Starting",
        "WaitingForPods",
        words="1 of 2 pods run",
    ),
    "all run": Case(
        observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO, running=True)),
        "Running",
        "AllNodesReady",
        ready="True",
        reconciling="False",
        words="2 of 2 pods run",
    ),
    "one has ended well": Case(
        observe(two(), pod(0, of=TWO, exit_code=0), pod(1, of=TWO, running=True)),
        "Running",
        "AllNodesReady",
        ready="True",
        reconciling="False",
    ),
    "no node": Case(
        observe(TWO, pod(0, of=TWO, **NO_NODE), pod(1, of=TWO, **NO_NODE)),
        "Pending",
        "Unschedulable",
        words="Insufficient nvidia.com/gpu.; free nodes or GPUs, or lower nodes.count",
    ),
    "no place for the gang": Case(
        observe(
            TWO,
            pod(0, of=TWO),
            pod(1, of=TWO),
            **GANGS,
            gangs=(GangView("train-0", "g", 0, 2, unschedulable="no place for 2 pods"),),
        ),
        "Pending",
        "Unschedulable",
        words="2 pods must be placed together, each asking for no resources: no place for 2 pods",
    ),
    "no image": Case(
        observe(TWO, pod(0, of=TWO, running=True), pod(1, of=TWO, **PULL)),
        "Pending",
        "ImagePullFailed",
        reconciling="False",
        stalled="True",
        words='pod train-1-0: Back-off pulling image "trainer:1"; check the image name',
    ),
    "no secret": Case(
        observe(TWO, pod(0, of=TWO, **CONFIG), pod(1, of=TWO)),
        "Pending",
        "ContainerConfigError",
        reconciling="False",
        stalled="True",
        words='pod train-0-0: secret "s" not found',
    ),
    "one failed": Case(
        observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO, exit_code=1)),
        "Restarting",
        "ApplicationError",
        attempt=1,
        requeue_after=0,
        words="pod train-1-0: container trainer ended with exit code 1; see: kubectl logs train-1-0",
    ),
    "one ran out of memory": Case(
        observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO, exit_code=137, exit_reason="OOMKilled")),
        "Restarting",
        "OutOfMemory",
        attempt=1,
        requeue_after=0,
    ),
    "one failed before all were created": Case(
        observe(TWO, pod(0, of=TWO, exit_code=1)), "Restarting", "ApplicationError", attempt=1, requeue_after=0
    ),
    "one was deleted": Case(
        observe(two(), pod(0, of=TWO, running=True)),
        "Restarting",
        "Disruption",
        attempt=1,
        requeue_after=0,
        words="pod train-1-0: it was deleted by somebody else",
    ),
    "all were deleted": Case(observe(two()), "Restarting", "Disruption", attempt=1, requeue_after=0),
    "one is being deleted": Case(
        observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO, running=True, terminating=True)),
        "Restarting",
        "Disruption",
        attempt=1,
        requeue_after=0,
    ),
    "told to end, both ended with 0": Case(
        observe(
            two(), pod(0, of=TWO, exit_code=0, terminating=True), pod(1, of=TWO, exit_code=0, disruption="drained")
        ),
        "Restarting",
        "Disruption",
        attempt=1,
        requeue_after=0,
    ),
    "no restart is left": Case(
        observe(
            job(nodes=2, failurePolicy={"maxRestarts": 0}, status=SEEN), pod(0, of=TWO, exit_code=3), pod(1, of=TWO)
        ),
        "Failed",
        "MaxRestartsExceeded",
        reconciling="False",
        stalled="True",
        requeue_after=0,
        words="failurePolicy.maxRestarts is 0; pod train-0-0: container trainer ended with exit code 3",
    ),
    "exit code 93": Case(
        observe(two(), pod(0, of=TWO, exit_code=93), pod(1, of=TWO, exit_code=1)),
        "Failed",
        "NoRestartRequested",
        reconciling="False",
        stalled="True",
        requeue_after=0,
    ),
    "pods of the last attempt run": Case(
        observe(
            two(attempt=1),
            pod(0, of=TWO, running=True),
            pod(1, of=TWO, running=True, terminating=True),
            gangs=(GangView("train-0", "g", 0, 2), GangView("train-1", "g", 1, 2)),
        ),
        "Restarting",
        "StoppingPods",
        removes=("Pod train-0-0", "PodGroup train-0"),
        attempt=1,
    ),
    "the next attempt waits": Case(
        observe(two(attempt=1, restarts={"nextAttemptTime": NOW + timedelta(seconds=7)})),
        "Restarting",
        "BackOff",
        attempt=1,
        requeue_after=7,
        words="attempt 1 starts at 2026-01-01T12:00:07Z",
    ),
    "the wait is over": Case(
        observe(two(attempt=1, restarts={"nextAttemptTime": NOW})),
        "Pending",
        "CreatingPods",
        creates=("Pod train-0-1", "Pod train-1-1"),
        attempt=1,
    ),
    "suspended from the start": Case(
        observe(job(nodes=2, suspend=True), service=None, workspace_exists=False),
        "Suspended",
        "Suspended",
        reconciling="False",
    ),
    "suspended before there are pods, the gang is there": Case(
        observe(job(nodes=2, suspend=True), gangs=(GangView("train-0", "g", 0, 2),)),
        "Suspended",
        "Suspended",
        reconciling="False",
        removes=("PodGroup train-0",),
    ),
    "suspended after an attempt that failed": Case(
        observe(
            job(nodes=2, suspend=True, status={"attempt": 1}),
            pod(0, of=TWO, exit_code=1),
            pod(1, of=TWO, exit_code=0),
        ),
        "Suspended",
        "Suspended",
        reconciling="False",
        attempt=1,
        removes=("Pod train-1-0",),
    ),
    "suspended while it runs": Case(
        observe(
            job(nodes=2, suspend=True, status=SEEN),
            pod(0, of=TWO, running=True),
            pod(1, of=TWO, running=True),
            gangs=(GangView("train-0", "g", 0, 2),),
        ),
        "Suspending",
        "StoppingPods",
        removes=(*PODS, "PodGroup train-0"),
    ),
    "suspended while pods of the last attempt end": Case(
        observe(job(nodes=2, suspend=True, status={"attempt": 1}), pod(0, of=TWO, running=True)),
        "Suspending",
        "StoppingPods",
        removes=("Pod train-0-0",),
        attempt=1,
    ),
    "resumed": Case(
        observe(two(conditions=[condition("Suspended")])), "Restarting", "Resumed", attempt=1, requeue_after=0
    ),
    "resumed while pods end": Case(
        observe(
            two(conditions=[condition("Suspended", "False", "StoppingPods")]),
            pod(0, of=TWO, running=True, terminating=True),
            pod(1, of=TWO, exit_code=143, terminating=True),
        ),
        "Restarting",
        "Resumed",
        attempt=1,
        requeue_after=0,
    ),
    "more nodes": Case(
        observe(job(nodes=3, status=SEEN), pod(0, of=TWO, running=True), pod(1, of=TWO, running=True)),
        "Restarting",
        "Resized",
        attempt=1,
        requeue_after=0,
        words="spec.nodes.count changed from 2 to 3",
    ),
    "fewer nodes": Case(
        observe(job(nodes=1, status=SEEN), pod(0, of=TWO, running=True), pod(1, of=TWO, running=True)),
        "Restarting",
        "Resized",
        attempt=1,
        requeue_after=0,
    ),
    "another image": Case(
        observe(
            job(nodes=2, container={"image": "trainer:2"}, status=SEEN),
            pod(0, of=TWO, exit_code=1),
            pod(1, of=TWO, running=True),
        ),
        "Restarting",
        "TemplateChanged",
        attempt=1,
        requeue_after=0,
    ),
    "pods of a newer attempt": Case(
        observe(two(phase="Running", reason="AllNodesReady"), pod(0, 3, of=TWO), pod(1, 1, of=TWO)),
        "Running",
        "AllNodesReady",
        attempt=3,
        ready="",
        reconciling="",
        stalled="",
        requeue_after=1,
    ),
    "done, nothing to publish": Case(
        observe(two(), pod(0, of=TWO, exit_code=0), pod(1, of=TWO, exit_code=0)),
        "Succeeded",
        "Succeeded",
        ready="True",
        reconciling="False",
        words="spec.output is not set",
    ),
    "done, a side container runs": Case(
        observe(two(), *(pod(index, of=TWO, running=True, exit_code=0, phase="Running") for index in (0, 1))),
        "Succeeded",
        "Succeeded",
        ready="True",
        reconciling="False",
        requeue_after=0,
    ),
    "done, with output": Case(
        observe(
            job(nodes=2, output=OUTPUT, status=SEEN),
            pod(0, of=TWO, exit_code=0),
            pod(1, of=TWO, exit_code=0),
            model_claim_exists=False,
        ),
        "Publishing",
        "Publishing",
        creates=("PersistentVolumeClaim aifactory-models", "Pod train-publish-0"),
    ),
    "done, then suspended": Case(
        observe(
            job(nodes=2, output=OUTPUT, suspend=True, status=SEEN),
            pod(0, of=TWO, exit_code=0),
            pod(1, of=TWO, exit_code=0),
        ),
        "Publishing",
        "Publishing",
        creates=("Pod train-publish-0",),
    ),
    "done, then cleaned up": Case(
        observe(job(nodes=2, output=OUTPUT, status={**SEEN, "nodes": {"desired": 2, "succeeded": 2}})),
        "Publishing",
        "Publishing",
        creates=("Pod train-publish-0",),
    ),
    "done, then resized": Case(
        observe(job(nodes=5, output=OUTPUT, status={**SEEN, "nodes": {"desired": 2, "succeeded": 2}})),
        "Publishing",
        "Publishing",
        creates=("Pod train-publish-0",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_observed_decides(name: str) -> None:
    case = CASES[name]
    decision = decide(case.observed)
    status = decision.status
    assert (status.phase, status.reason) == (case.phase, case.reason)
    assert sorted(created(decision)) == sorted(case.creates)
    assert sorted(removed(decision)) == sorted(case.removes)
    assert status.attempt == case.attempt
    assert decision.requeue_after == case.requeue_after
    found = conditions(status)
    for type_, wanted in (("Ready", case.ready), ("Reconciling", case.reconciling), ("Stalled", case.stalled)):
        assert found.get(type_, ("", ""))[0] == wanted, type_
    if case.words:
        assert case.words in message(status)


@pytest.mark.parametrize("name", CASES)
def test_what_a_later_step_builds_on_is_written_at_once(name: str) -> None:
    decision = decide(CASES[name].observed)
    before = CASES[name].observed.job.status
    facts = {"Running", "Suspended", "Suspending", "Succeeded", "Failed"}
    is_fact = decision.status.phase in facts and decision.status.phase != before.phase
    is_ground = decision.status.attempt != before.attempt or decision.requeue_after == 0
    assert decision.urgent == (is_fact or is_ground), "what is neither may wait for what changes next"
    assert decision.urgent or not decision.events


@pytest.mark.parametrize("name", CASES)
def test_conditions_agree_with_the_phase(name: str) -> None:
    status = decide(CASES[name].observed).status
    found = conditions(status)
    if not found:
        return
    assert found["Running"][0] == ("True" if status.phase == "Running" else "False")
    assert ("Complete" in found) == (status.phase == "Succeeded")
    assert ("Failed" in found) == (status.phase == "Failed")
    assert (found.get("Suspended", ("", ""))[0] == "True") == (status.phase == "Suspended")
    raised = status.attempt != CASES[name].observed.job.status.attempt
    assert (found.get("Restarting", ("", ""))[0] == "True") == raised


def test_all_conditions_of_the_two_ends() -> None:
    restarting = [condition("Restarting"), condition("Running")]
    done = job(nodes=1, status={"conditions": restarting})
    assert conditions(decide(observe(done, pod(exit_code=0))).status) == {
        "Complete": ("True", "Succeeded"),
        "Ready": ("True", "Succeeded"),
        "Reconciling": ("False", "Succeeded"),
        "Restarting": ("False", "Succeeded"),
        "Running": ("False", "Succeeded"),
        "Stalled": ("False", "Succeeded"),
    }
    lost = job(nodes=1, status={"conditions": restarting})
    assert conditions(decide(observe(lost, pod(exit_code=93))).status) == {
        "Failed": ("True", "NoRestartRequested"),
        "Ready": ("False", "NoRestartRequested"),
        "Reconciling": ("False", "NoRestartRequested"),
        "Restarting": ("False", "NoRestartRequested"),
        "Running": ("False", "NoRestartRequested"),
        "Stalled": ("True", "NoRestartRequested"),
    }


def test_what_the_api_server_refuses_is_told_in_its_words() -> None:
    draft = StatusDraft(observe(TWO), (), NOW)
    draft.refused(Refusal(Reason.POD_REJECTED, 'Pod train-0-0: unknown field "spec.x"'))
    status = draft.result()
    assert conditions(status)["Stalled"] == ("True", "PodRejected")
    assert (status.phase, message(status)) == ("Pending", 'Pod train-0-0: unknown field "spec.x"')


def test_a_refusal_that_passes_is_waited_for() -> None:
    draft = StatusDraft(observe(TWO), (), NOW)
    draft.refused(Refusal(Reason.QUOTA_EXCEEDED, "Pod train-0-0: exceeded quota", stalled=False))
    status = draft.result()
    assert conditions(status)["Reconciling"] == ("True", "QuotaExceeded")
    assert conditions(status)["Stalled"][0] == "False"


def test_a_refused_publisher_does_not_make_a_trained_job_pending() -> None:
    done = (pod(0, of=TWO, exit_code=0), pod(1, of=TWO, exit_code=0))
    draft = StatusDraft(observe(two(output=OUTPUT), *done), done, NOW)
    draft.refused(Refusal(Reason.QUOTA_EXCEEDED, "Pod train-publish-0: exceeded quota", stalled=False))
    status = draft.result()
    assert (status.phase, status.reason) == ("Publishing", "QuotaExceeded")
    assert conditions(status)["Reconciling"] == ("True", "QuotaExceeded")


@pytest.mark.parametrize(
    "words", ["0/3 nodes: pod has unbound immediate PersistentVolumeClaims", 'persistentvolumeclaim "m" not found']
)
def test_pods_that_wait_for_a_claim_are_not_told_to_free_gpus(words: str) -> None:
    status = decide(observe(job(), pod(0, unschedulable=words))).status
    assert conditions(status)["Scheduled"] == ("False", "ClaimNotBound")
    assert status.reason == "ClaimNotBound"
    assert words in message(status)
    assert "kubectl describe pvc train-workspace" in message(status)
    assert "GPU" not in message(status)


def test_a_scheduler_that_nobody_runs_is_named() -> None:
    container = {"name": "trainer", "image": "t"}
    own = job(template={"spec": {"schedulerName": "volcano", "containers": [container]}})
    words = message(decide(observe(own, pod(0, of=own, unseen=True))).status)
    advice = "check that one with the name volcano (schedulerName) runs"
    assert words == f"0 of 1 pods run; no scheduler has looked at 1 yet: {advice}"
    assert message(decide(observe(job(), pod(0, unseen=True))).status) == "0 of 1 pods run", "ours comes round to it"


def test_a_gang_that_the_cluster_can_not_have_is_told() -> None:
    status = decide(observe(TWO, pod(0, of=TWO), pod(1, of=TWO, unschedulable="0/3 nodes: no GPU"))).status
    assert status.resolved is not None
    assert status.resolved.gang == "unavailable"
    assert "the cluster serves no PodGroups, so jobs may hold nodes and wait for each other" in message(status)
    alone = job(nodes=2, scheduling={"gang": "none"})
    resolved = decide(observe(alone, pod(0, of=alone), pod(1, of=alone))).status.resolved
    assert resolved is not None
    assert resolved.gang == "none"


def test_a_side_container_that_crashes_before_the_trainer_is_named() -> None:
    words = "container proxy is in CrashLoopBackOff, it ended with 1 (Error)"
    status = decide(observe(job(), pod(0, waiting_reason="CrashLoopBackOff", waiting_message=words))).status
    assert conditions(status)["Stalled"] == ("True", "CrashLoopBackOff")
    assert message(status) == f"pod train-0-0: {words}; see: kubectl logs train-0-0 --all-containers"


def test_a_container_beside_the_trainers_that_dies_is_told_and_training_goes_on() -> None:
    pods = [pod(index, of=TWO, running=True, beside="container logs has ended with exit code 1") for index in (0, 1)]
    status = decide(observe(TWO, *pods)).status
    assert (status.phase, status.reason) == ("Running", "SideContainerFailed")
    assert conditions(status)["Ready"] == conditions(status)["Running"] == ("True", "SideContainerFailed")
    words = "2 of 2 pods run; pod train-0-0: container logs has ended with exit code 1 (and 1 more); training goes on"
    assert message(status) == words
    alone = decide(observe(TWO, pods[0], pod(1, of=TWO, running=True))).status
    assert message(alone) == words.replace(" (and 1 more)", "")
    assert conditions(decide(observe(TWO, *(pod(index, of=TWO, running=True) for index in (0, 1)))).status)[
        "Running"
    ] == ("True", "AllNodesReady")


def test_pods_that_a_queue_holds_back_say_so() -> None:
    status = decide(observe(TWO, pod(0, of=TWO, gated=True), pod(1, of=TWO, gated=True))).status
    words = "0 of 2 pods run; 2 wait for scheduling gates, which whoever set them, a queue for example, removes"
    assert message(status) == words


def test_pods_at_which_the_clusters_scheduler_does_not_look_are_told_after_a_minute() -> None:
    """So it is with a pod whose ResourceClaim is missing: neither its status nor an Event says a word."""
    first = decide(observe(TWO, pod(0, of=TWO, unseen=True), pod(1, of=TWO, unseen=True)))
    assert (message(first.status), first.requeue_after) == ("0 of 2 pods run", 60)
    later = job(nodes=2, status=first.status.dump())
    pods = pod(0, of=later, unseen=True), pod(1, of=later)
    assert decide(observe(later, *pods), NOW + timedelta(seconds=59)).requeue_after == 1
    told = decide(observe(later, *pods), NOW + timedelta(seconds=60))
    words = "no scheduler has looked at pod train-0-0 yet: something it names, a ResourceClaim for example, is missing"
    assert message(told.status) == f"0 of 2 pods run; {words}"
    assert told.requeue_after is None


def test_only_pods_that_do_not_run_are_asked_for_their_trouble() -> None:
    """A side container of one that runs may have crashed long ago."""
    crashed = {"waiting_reason": "CrashLoopBackOff", "waiting_message": "container logs ends again and again"}
    status = decide(observe(TWO, pod(0, of=TWO, running=True, **crashed), pod(1, of=TWO))).status
    assert (status.reason, conditions(status)["Stalled"][0]) == ("WaitingForPods", "False")


def test_a_name_that_is_taken_is_waited_for() -> None:
    draft = StatusDraft(observe(TWO), (), NOW)
    draft.name_taken("Service train-nodes", "kubectl -n ns delete service/train-nodes")
    status = draft.result()
    assert conditions(status)["Stalled"] == ("False", "NameConflict"), "it may be that of a job that is going"
    assert conditions(status)["Reconciling"] == ("True", "NameConflict")
    assert "Service train-nodes exists and does not belong to this job" in message(status)
    assert message(status).endswith("or, if nobody needs it: kubectl -n ns delete service/train-nodes")


def test_all_that_an_earlier_job_of_the_name_has_left_is_named_with_the_command_that_removes_it() -> None:
    observed = observe(TWO)
    taken = [
        WriteError(write, AlreadyExists(409, "AlreadyExists", "it exists"))
        for write in decide(observed).writes
        if isinstance(write, Create)
    ]
    status = Training(SETTINGS).refused(observed, taken, NOW).status
    named = " ".join(f"{error.write.kind.lower()}/{error.write.name}" for error in taken)
    assert f"kubectl -n {TWO.metadata.namespace} delete {named}" in message(status)


@pytest.mark.parametrize("name", CASES)
def test_every_message_ends_up_in_one_line(name: str) -> None:
    for found in decide(CASES[name].observed).status.conditions:
        assert "\n" not in found.message
        assert "  " not in found.message


@pytest.mark.parametrize(
    "owner",
    [
        job(managedBy="kueue.x-k8s.io/multikueue"),
        job(managedBy="kueue.x-k8s.io/multikueue", deleting=True),
        job(deleting=True, finalizers=("orphan", "team/hold")),
    ],
    ids=["managed by another", "managed by another, being deleted", "its pods are to live on"],
)
def test_what_is_not_ours_is_left_alone(owner: Any) -> None:
    assert plan_training(observe(owner, pod(exit_code=1)), NOW) is None


def test_a_job_that_is_being_deleted_ends_its_pods_and_makes_nothing() -> None:
    """Whoever holds it with a finalizer held its GPUs too."""
    held = job(nodes=2, status=SEEN | {"attempt": 1}, deleting=True, output=OUTPUT)
    pods = (pod(0, 0, of=held, exit_code=1), pod(1, 0, of=held), pod(0, 1, of=held, running=True))
    ended = pod(1, 1, of=held, exit_code=0)
    tasks = {"probes": (publisher(7),), "publishers": (publisher(8, exit_code=1), publisher(9))}
    plan = decide(observe(held, *pods, ended, **tasks, service=None, workspace_exists=False))
    assert removed(plan) == ["Pod train-1-0", "Pod train-0-1", "Pod train-publish-7", "Pod train-publish-9"]
    assert len(plan.writes) == 4
    assert (plan.status.phase, plan.status.reason, plan.status.attempt) == ("Terminating", "StoppingPods", 1)
    assert conditions(plan.status)["Running"] == ("False", "StoppingPods")
    words = "the job is being deleted and 4 pods are ending; it goes when these finalizers have: team/hold"
    assert message(plan.status, ConditionType.RECONCILING) == words


def test_a_job_that_is_being_deleted_publishes_nothing_and_is_not_tried_again() -> None:
    held = job(deleting=True, output=OUTPUT)
    for last in (pod(exit_code=0), pod(exit_code=1)):
        plan = decide(observe(held, last))
        assert not plan.writes
        assert (plan.status.attempt, plan.status.phase, plan.requeue_after) == (0, "Terminating", None)
        assert "none of its pods runs any more" in message(plan.status, ConditionType.RECONCILING)


def test_an_ended_job_that_is_being_deleted_says_how_it_ended() -> None:
    held = job(deleting=True, status={"phase": "Failed", "conditions": [condition("Failed")]})
    plan = decide(observe(held, pod(running=True), pod(exit_code=1)))
    assert removed(plan) == ["Pod train-0-0"]
    assert plan.status.phase == "Failed"


def test_a_pod_that_can_not_end_is_named_while_its_job_is_being_deleted() -> None:
    late = pod(running=True, terminating=True, due_to_end=NOW - timedelta(seconds=61))
    plan = decide(observe(job(deleting=True), late, pod(1, running=True, terminating=True, due_to_end=NOW)))
    assert not plan.writes
    assert (plan.status.reason, plan.requeue_after) == ("NodeLost", 60)
    assert "pod train-0-0 should have ended" in message(plan.status, ConditionType.STALLED)


def test_our_own_name_as_manager_is_the_default() -> None:
    assert created(decide(observe(job(managedBy="aifactory.dev/operator")))) == ["Pod train-0-0"]


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_finished_job_only_frees_its_nodes(end: str) -> None:
    other = {"Complete": "Failed", "Failed": "Complete"}[end]
    before = [condition("Scheduled", reason="PodsScheduled"), condition(other, "False", "Other"), condition(end)]
    owner = job(nodes=3, generation=4, status={"phase": "X", "conditions": before})
    observed = observe(owner, pod(0, exit_code=0), pod(1, running=True), pod(2, running=True, terminating=True))
    decision = decide(observed)
    assert removed(decision) == ["Pod train-1-0"], "pods that ended are kept for their logs"
    assert not created(decision)
    found, true = decision.status, {"Complete": "Ready", "Failed": "Stalled"}[end]
    told = {"observed_generation": 4, "reason": "Testing", "conditions": found.conditions}
    assert found == owner.status.model_copy(update=told)
    assert conditions(found)[true] == conditions(found)[end] == ("True", "Testing")


def test_the_reason_of_a_restart_is_kept() -> None:
    failed = pod(1, of=TWO, exit_code=9, node="gpu-3", exit_message="ValueError: lr")
    decision = decide(observe(two(attempt=0), pod(0, of=TWO, running=True), failed))
    last = decision.status.last_failure
    assert last is not None
    assert last.dump() == {
        "time": "2026-01-01T12:00:00Z",
        "attempt": 0,
        "pod": "train-1-0",
        "node": "gpu-3",
        "index": 1,
        "container": "",
        "exitCode": 9,
        "reason": "ValueError",
        "cause": "ApplicationError",
        "message": "container trainer ended with exit code 9: ValueError: lr; see: kubectl logs train-1-0",
    }
    assert [event.message for event in decision.events] == [f"attempt 1 starts: pod train-1-0: {last.message}"]
    assert conditions(decision.status)["Restarting"] == ("True", "ApplicationError")


def test_a_job_that_failed_counts_no_running_pods() -> None:
    owner = job(nodes=2, failurePolicy={"maxRestarts": 0}, status=SEEN)
    nodes = decide(observe(owner, pod(0, of=TWO, running=True), pod(1, of=TWO, exit_code=1))).status.nodes
    assert nodes is not None
    assert (nodes.active, nodes.ready, nodes.failed, nodes.summary) == (0, 0, 1, "0/2")


def test_a_pod_is_missing_only_after_it_was_seen() -> None:
    """A view that lags behind our own creates must not take them for deleted."""
    status = decide(observe(TWO)).status
    assert status.resolved is not None
    assert status.resolved.created_attempt == -1
    status = decide(observe(TWO, pod(0, of=TWO), pod(1, of=TWO))).status
    assert status.resolved is not None
    assert status.resolved.created_attempt == 0


def test_scheduled_is_said_when_all_have_a_node() -> None:
    one = decide(observe(TWO, pod(0, of=TWO, node="a"))).status
    assert "Scheduled" not in conditions(one), "the second pod does not exist yet"
    both = decide(observe(TWO, pod(0, of=TWO, node="a"), pod(1, of=TWO, node="b"))).status
    assert conditions(both)["Scheduled"] == ("True", "PodsScheduled")


def test_an_old_verdict_of_the_scheduler_does_not_outlive_its_pods() -> None:
    unplaced = job(nodes=3, status={**SEEN, "conditions": [condition("Scheduled", "False", "Unschedulable")]})
    decision = decide(observe(unplaced, pod(0, of=TWO), pod(1, of=TWO)))
    assert decision.status.reason == "Resized"
    assert "Scheduled" not in conditions(decision.status)


def test_the_status_shows_counts_selector_and_what_was_resolved() -> None:
    status = decide(observe(TWO, pod(0, of=TWO, running=True), pod(1, of=TWO), **GANGS)).status
    assert status.dump() | {"conditions": []} == {
        "observedGeneration": 1,
        "phase": "Starting",
        "reason": "WaitingForPods",
        "conditions": [],
        "startTime": "2026-01-01T12:00:00Z",
        "attempt": 0,
        "restarts": {"total": 0, "counted": 0, "byCause": {}, "countedTimes": [], "lostSteps": 0} | STILL,
        "nodes": {"desired": 2, "active": 2, "ready": 1, "succeeded": 0, "failed": 0, "summary": "1/2"},
        "replicas": 2,
        "selector": "aifactory.dev/job-name=train,aifactory.dev/role=node",
        "resolved": {
            "nodes": 2,
            "procPerNode": 1,
            "gang": "native",
            "workspaceClaim": "train-workspace",
            "workspacePath": "",
            "createdAttempt": 0,
        },
    }


def test_first_running_time_is_the_first() -> None:
    early = NOW - timedelta(hours=5)
    status = decide(observe(job(status={"firstRunningTime": early, "startTime": early}), pod(running=True))).status
    assert (status.first_running_time, status.start_time) == (early, early)
    assert decide(observe(job(), pod(running=True))).status.first_running_time == NOW


def test_that_a_job_runs_is_told_at_once_and_once() -> None:
    assert not decide(observe(two(), pod(0, of=TWO, running=True), pod(1, of=TWO))).urgent
    both = (pod(0, of=TWO, running=True), pod(1, of=TWO, running=True))
    first = decide(observe(two(), *both))
    assert first.urgent
    assert not decide(observe(TWO.model_copy(update={"status": first.status}), *both)).urgent


def test_an_event_is_a_warning_only_when_something_went_wrong() -> None:
    kinds = {name: decide(case.observed).events[0].type for name, case in CASES.items() if decide(case.observed).events}
    assert {name for name, kind in kinds.items() if kind == "Normal"} == {
        "resumed",
        "resumed while pods end",
        "more nodes",
        "fewer nodes",
        "another image",
        "resized before there are pods, the gang is there",
        "no gang any more before there are pods",
    }


def test_conditions_that_say_the_same_keep_their_time() -> None:
    hour_ago = NOW - timedelta(hours=1)
    owner = job(status={"conditions": [condition("Ready", "False"), condition("Running", "True")]})
    status = decide(observe(owner, pod())).status
    times = {found.type: found.last_transition_time for found in status.conditions}
    assert times[ConditionType.READY] == hour_ago
    assert times[ConditionType.RUNNING] == NOW, "it has flipped"


def test_a_publisher_is_not_a_training_pod() -> None:
    assert decide(observe(job(), pod(running=True), publishers=(publisher(),))).status.replicas == 1
    assert UID in str(bodies(decide(observe(job())))[0])
