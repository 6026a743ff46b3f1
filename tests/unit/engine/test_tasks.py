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
from aifactory.engine.tasks import MAX_LEFT, Step, Task, TaskPod, plan_task, retry_command, task_pod
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


def plan(
    *pods: TaskPod, number: int = 0, next_time: datetime | None = None, now: datetime = NOW, **options: bool
) -> Step:
    return plan_task(TASK, pods, number, next_time, now, **options)


def test_a_pod_is_made_for_the_try_that_counts_and_earlier_ones_go() -> None:
    assert [write.name for write in plan().writes] == ["copy-0"]
    step = plan(pod(1, 1), pod(0, 1, terminating=True), number=2)
    assert [(type(write), write.name) for write in step.writes] == [(Create, "copy-2"), (Delete, "copy-1")]
    assert (step.message, step.reason, step.requeue_after) == ("the copier is being created", None, None)
    assert step.writes[1] == Delete("Pod", "copy-1", "uid-1"), "of exactly that pod"


@pytest.mark.parametrize(
    ("changes", "reason", "stalled", "message"),
    [
        ({}, None, False, "pod copy-0 copies"),
        (
            {"waiting_reason": "Odd", "waiting_message": "it is odd"},
            Reason.CONTAINER_CONFIG_ERROR,
            True,
            "pod copy-0: it is odd",
        ),
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
            {"waiting_reason": "FailedCreatePodSandBox", "waiting_message": 'no runtime for "nvidia" is configured'},
            Reason.POD_NOT_SET_UP,
            True,
            'pod copy-0: no runtime for "nvidia" is configured; check runtimeClassName',
        ),
        (
            {"waiting_reason": "PostStartHookError", "waiting_message": "exited with 3"},
            Reason.CONTAINER_CONFIG_ERROR,
            True,
            "pod copy-0: exited with 3",
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
    assert (step.number, step.writes, step.urgent) == (0, (), False)


@pytest.mark.parametrize(
    ("changes", "renewed"),
    [
        ({}, False),
        ({"exit_code": 0, "answer": GOOD}, False),
        ({"exit_code": 1}, True),
        ({"terminating": True}, False),
        ({"unschedulable": "0/3 nodes"}, False),
        ({"waiting_reason": "ImagePullBackOff"}, False),
        ({"waiting_reason": "Odd", "waiting_message": "slow"}, False),
    ],
    ids=["works", "answers", "asked for again", "is deleted", "no node", "no image", "waits"],
)
def test_pods_of_earlier_tries_go_whatever_becomes_of_the_one_that_counts(changes: Any, renewed: bool) -> None:
    step = plan(pod(0, 1), pod(1, **changes), number=1, renewed=renewed)
    assert step.writes == (Delete("Pod", "copy-0", "uid-0"),)


def test_somebody_who_asks_gets_another_try_when_the_one_under_way_has_ended() -> None:
    """Also after an answer that is the end for whoever does not ask."""
    step = plan(pod(0, 1, {"reason": "InvalidArtifact"}), renewed=True)
    assert (step.number, step.message, step.reason) == (1, "the copier is asked for again", None)
    assert (step.urgent, step.requeue_after, step.failed) == (True, 0, False)
    assert plan(pod(0), renewed=True).message == "pod copy-0 copies"
    assert plan(pod(0, 0, GOOD), renewed=True).answer == GOOD


def test_the_command_for_another_try_can_be_pasted() -> None:
    assert (
        retry_command("ModelVersion", "gpt-v1")
        == "kubectl annotate modelversion gpt-v1 --overwrite aifactory.dev/retry=<anything new>"
    )


def test_the_answer_is_that_of_its_own_container() -> None:
    """An injected sidecar lives on and the pod never ends; kubelets call it Running."""
    assert plan(pod(0, 0, GOOD)).answer == GOOD
    assert plan(pod(0, 0, GOOD, terminating=True)).answer == GOOD, "it has answered before it goes"
    assert plan(pod(0, 1, terminating=True)).reason == Reason.PUBLISHER_FAILED, "or it has failed before that"


@pytest.mark.parametrize(
    "tried",
    [pod(0, 1, GOOD), pod(0, 0, '["uri"]'), pod(0, 0, "uri"), pod(0, 0, "[" * 100_000), pod(0, None, GOOD)],
    ids=["it failed", "a list", "no JSON", "too deep", "it is not done"],
)
def test_what_is_no_answer_is_not_taken_for_one(tried: TaskPod) -> None:
    step = plan(tried)
    assert (step.answer, step.failed) == (None, False)
    assert step.tried is tried.ended


@pytest.mark.parametrize(
    ("ended", "reason", "stalled", "message"),
    [
        (pod(0, 1, {"reason": "StoreFull", "message": "no space"}), Reason.STORE_FULL, True, "no space"),
        (pod(0, 1, {"reason": "StoreFull"}), Reason.STORE_FULL, True, "no space left in the store"),
        (pod(0, 1, {"reason": "Odd", "message": "odd"}), Reason.PUBLISHER_FAILED, True, "copy-0: odd; "),
        (pod(0, 1, {"message": "two\nlines"}), Reason.PUBLISHER_FAILED, True, "copy-0: two lines; "),
        (pod(0, 0, {"other": 1}), Reason.PUBLISHER_FAILED, True, '{"other": 1}'),
        (pod(0, 1), Reason.PUBLISHER_FAILED, True, "see: kubectl logs copy-0"),
        (pod(0, 137, end_reason="OOMKilled"), Reason.OUT_OF_MEMORY, True, "raise taskPods.resources of the chart; "),
        (
            pod(0, 137, end_reason="DeadlineExceeded"),
            Reason.PUBLISHER_FAILED,
            True,
            "raise taskPods.activeDeadlineSeconds of the chart; ",
        ),
        (pod(0, 137, "full disk", end_reason="Evicted"), Reason.DISRUPTION, False, "outside (Evicted): full disk"),
        (pod(0, None, "gone", ended=True, end_reason="NodeLost"), Reason.DISRUPTION, False, "outside (NodeLost): gone"),
        (pod(0, 1, "it ran", end_reason="UnexpectedAdmissionError"), Reason.PUBLISHER_FAILED, True, "copy-0: it ran; "),
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
    assert step.message.startswith("pod copy-0: ")
    assert message in step.message
    wait = 30 if reason is Reason.STORE_FULL else 10
    assert step.message.endswith(f"; it is tried again at 2026-01-01T12:00:{wait}Z")
    assert (step.next_time, step.requeue_after, step.urgent) == (NOW + timedelta(seconds=wait), wait, True)
    due = plan(ended, next_time=step.next_time, now=NOW + timedelta(seconds=wait))
    assert (due.number, due.next_time, due.requeue_after, due.failed) == (1, None, 0, False)
    assert (due.reason, due.stalled, due.tried, due.urgent) == (reason, stalled, True, True)
    assert due.message == step.message.replace(f"is tried again at 2026-01-01T12:00:{wait}Z", "is being tried again")


def test_where_nobody_may_remove_pods_their_number_is_bounded() -> None:
    late = NOW + timedelta(hours=1)
    left = [pod(number, 1, terminating=number == 0) for number in range(MAX_LEFT)]
    waits = plan(*left, pod(MAX_LEFT, 1), number=MAX_LEFT, now=late)
    assert (waits.number, waits.urgent, waits.requeue_after) == (MAX_LEFT, False, None)
    assert waits.message.endswith("; it is tried again when 5 pods of earlier tries are removed")
    assert [write.name for write in waits.writes] == ["copy-1", "copy-2", "copy-3", "copy-4"]
    assert waits.tried
    assert plan(*left[1:], pod(MAX_LEFT, 1), number=MAX_LEFT, now=late).number == MAX_LEFT + 1
    due = NOW + timedelta(seconds=300)
    assert "pods of earlier tries" in plan(*left, pod(MAX_LEFT, 1), number=MAX_LEFT, now=due).message
    early = plan(*left, pod(MAX_LEFT, 1), number=MAX_LEFT, now=due - timedelta(seconds=1))
    assert (early.next_time, early.requeue_after) == (due, 1.0), "until then there is time to remove them"


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


def test_a_wait_begins_with_the_end_of_the_try_or_with_its_being_seen_where_that_is_unknown() -> None:
    earlier = plan(pod(0, 1, finished_at=NOW - timedelta(seconds=4)))
    assert (earlier.next_time, earlier.requeue_after) == (NOW + timedelta(seconds=6), 6.0)
    assert plan(pod(0, 1, finished_at=NOW - timedelta(seconds=11))).number == 1
    unknown = plan(pod(0, ended=True, end_reason="Evicted"))
    assert (unknown.next_time, unknown.requeue_after) == (NOW + timedelta(seconds=10), 10.0)


def test_the_last_words_of_a_try_are_cut_to_what_a_status_can_hold() -> None:
    step = plan(pod(0, 1, "word " * 800))
    assert len(step.message) < 1024
    assert step.message.endswith("…; it is tried again at 2026-01-01T12:00:10Z")


def test_what_no_other_try_can_change_is_the_end() -> None:
    step = plan(pod(0, 1, {"reason": "InvalidArtifact", "message": "no config.json"}))
    assert (step.failed, step.reason, step.tried) == (True, Reason.INVALID_ARTIFACT, True)
    assert (step.message, step.next_time, step.requeue_after) == ("pod copy-0: no config.json", None, None)
    assert step.stalled


def test_one_that_is_being_deleted_is_given_up_at_once() -> None:
    """On a dead node it stays terminating for ever; the next one has another name."""
    step = plan(pod(0, terminating=True), pod(2), number=2)
    assert step.message == "pod copy-2 copies"
    step = plan(pod(0, terminating=True))
    assert (step.number, step.reason, step.stalled, step.urgent) == (1, Reason.DISRUPTION, False, True)
    assert step.requeue_after == 0
    assert step.message == ("pod copy-0 is being deleted by somebody else, or its node is lost: another one takes over")


def test_an_older_view_makes_no_second_pod() -> None:
    step = plan(pod(0), pod(4), number=1)
    assert (step.number, step.writes, step.urgent) == (4, (), True)
    assert step.message == "an older view of the object: looking again"
    assert step.requeue_after is not None
    assert 0 < step.requeue_after <= 1


def view(name: str = "gpt-v1-copy-7", *, deleted: bool = False, **status: Any) -> Pod:
    metadata = {"name": name, "uid": "u"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})
    return decoder(Pod)(msgspec.json.encode({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status}))


def terminated(code: int, message: str = "", reason: str = "") -> dict[str, Any]:
    end = {"exitCode": code, "message": message, "reason": reason, "finishedAt": "2026-01-01T12:00:00Z"}
    return {"name": "copy", "state": {"terminated": end}}


def test_a_pod_is_seen_by_its_container() -> None:
    sidecar = {"name": "mesh", "state": {"running": {}}}
    seen = task_pod(view(phase="Running", containerStatuses=[sidecar, terminated(0, '{"uri": 1}')]), "copy")
    assert seen == TaskPod("gpt-v1-copy-7", "u", 7, True, 0, message='{"uri": 1}', finished_at=NOW)
    killed = task_pod(view(phase="Failed", containerStatuses=[terminated(137, reason="OOMKilled")]), "copy")
    assert (killed.ended, killed.end_reason) == (True, "OOMKilled")
    refused = task_pod(view(phase="Failed", reason="Evicted", message="full"), "copy")
    assert refused == TaskPod("gpt-v1-copy-7", "u", 7, True, message="full", end_reason="Evicted")
    assert task_pod(view(phase="Succeeded"), "copy").ended, "who ended it keeps silent"


def test_a_failure_counts_when_the_pod_has_ended_or_goes_on_and_a_success_at_once() -> None:
    """A program that was told to end may fail of that: why it was told shows a little later, with the pod's phase."""
    sidecar = {"name": "mesh", "state": {"running": {}}}
    ended = [
        task_pod(view(phase="Running", containerStatuses=[terminated(code), *others]), "copy").ended
        for code in (0, 1)
        for others in ([], [sidecar])
    ]
    assert ended == [True, True, False, True]
    assert not task_pod(view(phase="Running", containerStatuses=[sidecar]), "copy").ended


def test_what_ended_a_pod_goes_before_what_its_container_says_of_it() -> None:
    ended = terminated(137, "last words", "Error")
    seen = task_pod(view(phase="Failed", reason="Evicted", message="disk full", containerStatuses=[ended]), "copy")
    assert (seen.end_reason, seen.message) == ("Evicted", "last words")


def test_a_pod_that_has_not_ended_is_seen_with_what_is_in_its_way() -> None:
    assert task_pod(view(phase="Running"), "copy") == TaskPod("gpt-v1-copy-7", "u", 7)
    assert task_pod(view(deleted=True), "copy") == TaskPod("gpt-v1-copy-7", "u", 7, terminating=True)
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    assert task_pod(view(phase="Pending", conditions=[unplaced]), "copy").unschedulable == "0/3 nodes"
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "Preempted", "message": "make room"}
    assert task_pod(view(conditions=[evicted]), "copy").disruption == "Preempted: make room"


@pytest.mark.parametrize("name", ["copy", "copy-x", "copy-"])
def test_a_pod_without_a_number_is_of_no_try(name: str) -> None:
    """Somebody has copied its labels: it is older than every try."""
    assert task_pod(view(name), "copy").number < 0


def test_events_tell_what_the_status_keeps_silent_about() -> None:
    trouble = Trouble("FailedMount", "no claim")
    starting = {"name": "copy", "state": {"waiting": {"reason": "ContainerCreating"}}}
    seen = task_pod(view(phase="Pending", containerStatuses=[starting]), "copy", trouble)
    assert (seen.waiting_reason, seen.waiting_message) == ("FailedMount", "no claim")
    pulling = {"name": "copy", "state": {"waiting": {"reason": "ErrImagePull", "message": "no image"}}}
    assert task_pod(view(phase="Pending", containerStatuses=[pulling]), "copy", trouble).waiting_message == "no image"


def test_a_program_that_answers_in_its_own_way_is_judged_by_how_it_ended() -> None:
    """What nobody judges is what it is of any task."""
    judged = replace(
        TASK,
        permanent=frozenset({Reason.CHECK_FAILED}),
        judge=lambda pod: (Reason.CHECK_FAILED, "no such layer") if pod.exit_code == 93 else None,
    )

    def step(exit_code: int) -> Step:
        return plan_task(judged, [pod(0, exit_code, "Traceback")], 0, None, NOW)

    said = step(93)
    assert (said.reason, said.message, said.failed, said.stalled) == (
        Reason.CHECK_FAILED,
        "pod copy-0: no such layer",
        True,
        True,
    )
    assert (step(1).reason, step(1).failed) == (Reason.PUBLISHER_FAILED, False)
