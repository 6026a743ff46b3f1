"""One planner for pods that run to an end and give an answer: probing, publishing, verifying, whatever is to come.

A task is tried until it has an answer. Each try is a pod of its own, numbered; the number and the time of the next try
are kept in the object's status, so nothing is remembered here. What always holds:
- A pod is judged by its own container: whatever else was injected into it may live on.
- No try is made while an earlier one may still answer, except that one which is being deleted (a drain, a dead node on
  which it stays for ever) is given up at once: the next one has another name.
- Nothing is final, for what was finished before is never thrown away over something that a person can mend. An answer
  that no other try can change by itself is waited on until somebody asks anew; a store that refuses is tried again
  every 45 s, so that it goes on within a minute of being put right, and everything else ever less often, for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aifactory.api import names
from aifactory.api.base import format_time
from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.engine.lastwords import root_cause
from aifactory.engine.plan import Create, Delete, Write
from aifactory.engine.pods import about_claims, needs_person, trouble
from aifactory.kube import podstate
from aifactory.kube.backoff import STORE, TASK
from aifactory.kube.objects import Pod

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskPod:
    """One try of a task: a pod that writes a JSON object to its termination log and ends."""

    name: str
    uid: str
    number: int
    """The end of its name: which try it is."""
    ended: bool = False
    """Its container has ended, or never will begin."""
    exit_code: int | None = None
    terminating: bool = False
    message: str = ""
    """What it wrote to its termination log, or Kubernetes' words where it could not."""
    end_reason: str = ""
    """Kubernetes' reason of its end: OOMKilled, DeadlineExceeded, Evicted ..."""
    disruption: str = ""
    finished_at: datetime | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""

    @property
    def answer(self) -> Json:
        """Its answer; empty when it gave none."""
        try:
            found = json.loads(self.message)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be run until it has an answer."""

    name: str
    """What its pods are called: `the verifier`."""
    what: str
    """What a pod of it does, in words that follow its name: `reads the artifact`."""
    body: Callable[[int], Mapping[str, Any]]
    """The pod of a try."""
    wanted: Callable[[Json], bool]
    """Whether an answer is the one that is waited for."""
    permanent: frozenset[Reason]
    """Reasons in an answer that no other try changes before a person has done something about it."""
    mendable: frozenset[Reason]
    """Reasons in an answer that pass by themselves, or that a person can remove."""
    unexplained: Reason
    """The reason that is told when there is no answer."""
    judge: Callable[[TaskPod], tuple[Reason, str] | None] = lambda _pod: None
    """What a try that ended otherwise means, of a program that gives no answer of this form: reason and words."""


MAX_LEFT: Final = 5
"""Pods of earlier tries that may be left. Where nobody may remove any, each try would leave one more for good."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a task stands and what to do about it."""

    number: int
    """The try that counts from now on."""
    message: str = ""
    reason: Reason | None = None
    """What is in the way; None while all goes as it should."""
    stalled: bool = False
    """A person is needed."""
    tried: bool = False
    """A try has ended: `reason` is about the work and not about its pod."""
    answer: Json | None = None
    """The answer, when it is there."""
    failed: bool = False
    """It has ended without the answer that was wanted, and is not tried again before somebody asks (`renewed`)."""
    next_time: datetime | None = None
    """When the next try is due."""
    writes: tuple[Write, ...] = ()
    urgent: bool = False
    requeue_after: float | None = None


def plan_task(
    task: Task,
    pods: Iterable[TaskPod],
    number: int,
    next_time: datetime | None,
    now: datetime,
    *,
    renewed: bool = False,
) -> Step:
    """One step of a task.

    Args:
        task: what is to be done.
        pods: its pods, of every try.
        number: the try that counts, from the object's status.
        next_time: when the next try is due, from the object's status.
        now: the time, in UTC.
        renewed: somebody asks for another try; one that is under way is let go on.
    """
    known = {pod.number: pod for pod in pods}
    if (newest := max(known, default=number)) > number:
        # Made from a newer view than ours: another pod of an older number would do the work twice.
        return Step(newest, "an older view of the object: looking again", urgent=True, requeue_after=1.0)
    pod = known.pop(number, None)
    writes = deletions(known.values())
    if pod is None:
        return Step(number, f"{task.name} is being created", writes=(Create(task.body(number)), *writes))
    if pod.ended and pod.exit_code == 0 and task.wanted(pod.answer):
        return Step(number, answer=pod.answer, writes=writes)
    if pod.terminating and not pod.ended:
        message = f"pod {pod.name} is being deleted by somebody else, or its node is lost: another one takes over"
        return Step(number + 1, message, Reason.DISRUPTION, writes=writes, urgent=True, requeue_after=0)
    if pod.ended and renewed:
        return Step(number + 1, f"{task.name} is asked for again", writes=writes, urgent=True, requeue_after=0)
    if pod.ended:
        return _ended(task, pod, next_time, now, known.values())
    if (problem := needs_person(pod)) is not None:
        return Step(number, problem[1], problem[0], stalled=True, writes=writes)
    if pod.unschedulable:
        message = f"pod {pod.name} has no node: {pod.unschedulable}"
        reason = Reason.CLAIM_NOT_BOUND if about_claims(pod.unschedulable) else Reason.UNSCHEDULABLE
        return Step(number, message, reason, writes=writes)
    return Step(number, f"pod {pod.name} {task.what}", writes=writes)


def retry_command(kind: str, name: str) -> str:
    """What a person types for another try."""
    return f"kubectl annotate {kind.lower()} {name} --overwrite {names.ANNOTATION_RETRY}=<anything new>"


def deletions(pods: Iterable[TaskPod]) -> tuple[Delete, ...]:
    """Remove pods that are not needed any more."""
    return tuple(Delete("Pod", pod.name, pod.uid) for pod in pods if not pod.terminating)


def _ended(task: Task, pod: TaskPod, next_time: datetime | None, now: datetime, earlier: Collection[TaskPod]) -> Step:
    reason, message = _cause(task, pod)
    told = f"pod {pod.name}: {shorten(message, 800)}"
    if reason in task.permanent:
        return Step(pod.number, told, reason, stalled=True, tried=True, failed=True)
    stalled = reason not in (Reason.DISRUPTION, Reason.NODE_REFUSED)
    backoff = STORE if reason in task.mendable else TASK
    due = next_time or (pod.finished_at or now) + timedelta(seconds=int(backoff.delay(pod.number + 1)))
    if due <= now and len(earlier) >= MAX_LEFT:
        told += f"; it is tried again when {len(earlier)} pods of earlier tries are removed"
        return Step(pod.number, told, reason, stalled, tried=True, writes=deletions(earlier))
    if due <= now:
        told += "; it is being tried again"
        return Step(pod.number + 1, told, reason, stalled, tried=True, urgent=True, requeue_after=0)
    told += f"; it is tried again at {format_time(due)}"
    left = (due - now).total_seconds()
    return Step(pod.number, told, reason, stalled, tried=True, next_time=due, urgent=True, requeue_after=left)


def _cause(task: Task, pod: TaskPod) -> tuple[Reason, str]:
    """Why a try ended without the answer that was wanted."""
    if (judged := task.judge(pod)) is not None:
        return judged
    answer = pod.answer
    known = (reason for reason in task.permanent | task.mendable if reason == answer.get("reason"))
    if (reason := next(known, None)) is not None:
        return reason, str(answer.get("message") or reason.sentence)
    if podstate.refused(pod.end_reason) and pod.exit_code is None:
        return Reason.NODE_REFUSED, f"its node refused it ({pod.end_reason}): {pod.message}"
    if pod.disruption or pod.end_reason in podstate.DISRUPTIONS:
        return Reason.DISRUPTION, pod.disruption or f"it was ended from outside ({pod.end_reason}): {pod.message}"
    if pod.end_reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY, "it used more memory than its limit: raise taskPods.resources of the chart"
    if pod.end_reason == "DeadlineExceeded":
        return task.unexplained, "it took longer than it may: raise taskPods.activeDeadlineSeconds of the chart"
    return task.unexplained, root_cause(pod.message).message or f"see: kubectl logs {pod.name}"


def task_pod(pod: Pod, container: str, events: podstate.Trouble = podstate.NO_TROUBLE) -> TaskPod:
    """A pod of a task as planning sees it.

    Args:
        pod: the pod.
        container: the one that answers.
        events: what the kubelet's Events say about a pod that does not start.
    """
    meta = pod.metadata
    end = podstate.ended(pod, container)
    found = trouble(pod, events)
    number = meta.name.rpartition("-")[2]
    return TaskPod(
        name=meta.name,
        uid=meta.uid,
        number=int(number) if number.isdecimal() else -1,
        # With an answer at once; without one it may be that it was told to end, which shows a little later.
        ended=(end is not None and (end.exit_code == 0 or not podstate.is_ending(pod))) or podstate.is_over(pod),
        exit_code=end.exit_code if end is not None else None,
        terminating=meta.deletion_timestamp is not None,
        message=(end.message if end is not None else "") or pod.status.message,
        end_reason=pod.status.reason or (end.reason if end is not None else ""),
        disruption=podstate.disruption(pod),
        finished_at=end.finished_at if end is not None else None,
        waiting_reason=found.reason,
        waiting_message=found.message,
        unschedulable=podstate.unschedulable(pod),
    )
