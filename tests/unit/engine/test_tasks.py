"""A task is tried until it has an answer: what each end of a try leads to."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aifactory.api.reasons import Reason
from aifactory.engine.plan import Create, Delete
from aifactory.engine.tasks import Step, Task, TaskPod, plan_task, task_pod
from aifactory.kube.objects import Pod, decoder
from aifactory.kube.podstate import Trouble

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TASK = Task(
    name="the copier",
    what="copies",
    body=lambda number: {"kind": "Pod", "metadata": {"name": f"copy-{number}"}},
    wanted=lambda answer: "uri" in answer,
    permanent=frozenset({Reason.INVALID_ARTIFACT}),
    mendable=frozenset({Reason.STORE_FULL}),
    unexplained=Reason.PUBLISHER_FAILED,
)
GOOD = {"uri": "s3://a"}


def pod(number: int = 0, exit_code: int | None = None, answer: Any = None, **changes: Any) -> TaskPod:
    message = answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)
    made = TaskPod(f"copy-{number}", f"uid-{number}", number, exit_code is not None, exit_code, message=message)
    return replace(made, **({"finished_at": NOW} if exit_code is not None else {}) | changes)


def plan(*pods: TaskPod, number: int = 0, next_time: datetime | None = None, now: datetime = NOW) -> Step:
    return plan_task(TASK, pods, number, next_time, now)


def test_a_pod_is_made_for_the_try_that_counts_and_earlier_ones_go() -> None:
    step = plan(pod(1, 1), pod(0, 1, terminating=True), number=2)
    assert [(type(write), write.name) for write in step.writes] == [(Create, "copy-2"), (Delete, "copy-1")]
    assert (step.message, step.reason, step.requeue_after) == ("the copier is being created", None, None)


@pytest.mark.parametrize(
    ("changes", "reason", "stalled", "message"),
    [
        ({}, None, False, "pod copy-0 copies"),
        ({"unschedulable": "0/3 nodes"}, Reason.UNSCHEDULABLE, False, "pod copy-0 has no node: 0/3 nodes"),
        (
            {"unschedulable": 'persistentvolumeclaim "m" not found'},
            Reason.CLAIM_NOT_BOUND,
            False,
            'pod copy-0 has no node: persistentvolumeclaim "m" not found',
        ),
        (
            {"waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"},
            Reason.IMAGE_PULL_FAILED,
            True,
            "pod copy-0: no such image; check",
        ),
        (
            {"waiting_reason": "FailedMount", "waiting_message": 'secret "s3" not found'},
            Reason.VOLUME_NOT_MOUNTED,
            True,
            'pod copy-0: secret "s3" not found; check that the Secret',
        ),
        (
            {"waiting_reason": "CrashLoopBackOff", "waiting_message": "back-off"},
            Reason.CRASH_LOOP_BACK_OFF,
            True,
            "pod copy-0: back-off; see: kubectl logs copy-0 --all-containers",
        ),
    ],
)
def test_a_pod_that_has_not_ended_says_why(changes: Any, reason: Any, stalled: bool, message: str) -> None:
    step = plan(pod(**changes))
    assert (step.reason, step.stalled, step.tried) == (reason, stalled, False)
    assert step.message.startswith(message)
    assert (step.number, step.writes) == (0, ())


def test_the_answer_is_that_of_its_own_container() -> None:
    """An injected sidecar lives on and the pod never ends; kubelets call it Running."""
    assert plan(pod(0, 0, GOOD)).answer == GOOD
    assert plan(pod(0, 0, GOOD, terminating=True)).answer == GOOD, "it has answered before it goes"


@pytest.mark.parametrize(
    ("ended", "reason", "stalled", "message"),
    [
        (pod(0, 1, {"reason": "StoreFull", "message": "no space"}), Reason.STORE_FULL, True, "no space"),
        (pod(0, 1, {"reason": "StoreFull"}), Reason.STORE_FULL, True, "no space left in the store"),
        (pod(0, 1, {"reason": "Odd", "message": "odd"}), Reason.PUBLISHER_FAILED, True, "odd"),
        (pod(0, 0, {"other": 1}), Reason.PUBLISHER_FAILED, True, '{"other": 1}'),
        (pod(0, 1), Reason.PUBLISHER_FAILED, True, "see: kubectl logs copy-0"),
        (pod(0, 137, end_reason="OOMKilled"), Reason.OUT_OF_MEMORY, True, "raise taskPods.resources"),
        (pod(0, 137, end_reason="DeadlineExceeded"), Reason.PUBLISHER_FAILED, True, "activeDeadlineSeconds"),
        (pod(0, 137, "full disk", end_reason="Evicted"), Reason.DISRUPTION, False, "outside (Evicted): full disk"),
        (
            pod(0, None, "no cpu", ended=True, end_reason="OutOfcpu"),
            Reason.NODE_REFUSED,
            False,
            "its node refused it (OutOfcpu): no cpu",
        ),
        (pod(0, 143, disruption="Preempted: make room"), Reason.DISRUPTION, False, "Preempted: make room"),
    ],
)
def test_a_try_without_the_answer_is_followed_by_another(
    ended: TaskPod, reason: Reason, stalled: bool, message: str
) -> None:
    step = plan(ended)
    assert (step.number, step.reason, step.stalled, step.tried) == (0, reason, stalled, True)
    assert message in step.message
    wait = 30 if reason is Reason.STORE_FULL else 10
    assert step.message.endswith(f"it is tried again at 2026-01-01T12:00:{wait}Z")
    assert (step.next_time, step.requeue_after, step.urgent) == (NOW + timedelta(seconds=wait), wait, True)
    due = plan(ended, next_time=step.next_time, now=NOW + timedelta(seconds=wait))
    assert (due.number, due.next_time, due.requeue_after, due.failed) == (1, None, 0, False)


def test_waits_grow_and_stay_bounded() -> None:
    waits = [plan(pod(number, 1), number=number).requeue_after for number in range(8)]
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_what_a_person_mends_goes_on_within_a_minute_and_is_not_tried_at_a_fast_pace() -> None:
    full = {"reason": "StoreFull", "message": "no space"}
    waits = [plan(pod(number, 1, full), number=number).requeue_after for number in range(20)]
    assert waits == [30, *[45] * 19]


def test_a_wait_that_was_told_is_kept() -> None:
    step = plan(pod(0, 1, finished_at=None), next_time=NOW + timedelta(seconds=3))
    assert (step.next_time, step.requeue_after) == (NOW + timedelta(seconds=3), 3.0)


def test_what_no_other_try_can_change_is_the_end() -> None:
    step = plan(pod(0, 1, {"reason": "InvalidArtifact", "message": "no config.json"}))
    assert (step.failed, step.reason, step.tried) == (True, Reason.INVALID_ARTIFACT, True)
    assert (step.message, step.next_time, step.requeue_after) == ("pod copy-0: no config.json", None, None)


def test_one_that_is_being_deleted_is_given_up_at_once() -> None:
    """On a dead node it stays terminating for ever; the next one has another name."""
    step = plan(pod(0, terminating=True), pod(2), number=2)
    assert step.message == "pod copy-2 copies"
    step = plan(pod(0, terminating=True))
    assert (step.number, step.reason, step.stalled, step.urgent) == (1, Reason.DISRUPTION, False, True)
    assert step.requeue_after == 0


def test_an_older_view_makes_no_second_pod() -> None:
    step = plan(pod(4), number=1)
    assert (step.number, step.writes, step.urgent) == (4, (), True)
    assert step.requeue_after is not None
    assert step.requeue_after > 0


def view(**status: Any) -> Pod:
    raw = {"metadata": {"name": "copy-7", "uid": "u"}, "spec": {"nodeName": "n"}, "status": status}
    return decoder(Pod)(msgspec.json.encode(raw))


def terminated(code: int, message: str = "", reason: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "reason": reason}}
    return {"name": "copy", "state": state}


def test_a_pod_is_seen_by_its_container() -> None:
    sidecar = {"name": "mesh", "state": {"running": {}}}
    seen = task_pod(view(phase="Running", containerStatuses=[sidecar, terminated(0, '{"uri": 1}')]), "copy")
    assert (seen.number, seen.ended, seen.exit_code, seen.answer) == (7, True, 0, {"uri": 1})
    killed = task_pod(view(phase="Failed", containerStatuses=[terminated(137, reason="OOMKilled")]), "copy")
    assert (killed.ended, killed.end_reason) == (True, "OOMKilled")
    refused = task_pod(view(phase="Failed", reason="Evicted", message="full"), "copy")
    assert (refused.ended, refused.exit_code, refused.end_reason, refused.message) == (True, None, "Evicted", "full")


def test_events_tell_what_the_status_keeps_silent_about() -> None:
    trouble = Trouble("FailedMount", "no claim")
    starting = {"name": "copy", "state": {"waiting": {"reason": "ContainerCreating"}}}
    seen = task_pod(view(phase="Pending", containerStatuses=[starting]), "copy", trouble)
    assert (seen.waiting_reason, seen.waiting_message) == ("FailedMount", "no claim")
    pulling = {"name": "copy", "state": {"waiting": {"reason": "ErrImagePull", "message": "no image"}}}
    assert task_pod(view(phase="Pending", containerStatuses=[pulling]), "copy", trouble).waiting_message == "no image"
