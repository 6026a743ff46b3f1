"""The second stage: one attempt after another, until all pods have succeeded or the failure policy ends the job.

A failure takes its way in four steps, each a module of its own: `detectors` notice it, `causes` tells what it was,
`policy` says whether another attempt is made, and the action is taken here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from aifactory.api.conditions import find, shorten
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import LastFailure, Resolved, TrainingJobStatus
from aifactory.engine import tasks
from aifactory.engine.plan import Create, Delete, Event, EventType, Plan, Write
from aifactory.training import cache, children, evidence, kueue, nodeloss, prepare, progress, workspace
from aifactory.training.causes import Failure, aborted_at_end
from aifactory.training.policy import COUNTED, GiveUp, decide, forgive
from aifactory.training.state import Observed, PodView, created_attempt
from aifactory.training.status import StatusDraft

_WANTED: Final = frozenset({Reason.RESUMED, Reason.ADMITTED, Reason.RESIZED, Reason.TEMPLATE_CHANGED})
"""Causes of another attempt that are no trouble."""


def plan_running(
    observed: Observed, current: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Plan[TrainingJobStatus]:
    """Bring the current attempt up, and tell how far it is."""
    job, settings = observed.job, observed.settings
    attempt = job.status.attempt
    wait = _seconds_until(draft.restarts.next_attempt_time, now)
    if not current and wait > 0:
        draft.backing_off()
        return Plan(draft.result(), requeue_after=wait)

    missing = sorted(set(range(job.spec.nodes.count)) - {pod.index for pod in current})
    gang = observed.wants_gang
    writes: list[Write] = [*prepare.surroundings(observed), *deletions(evidence.leftovers(observed))]
    if prepare.is_ready(observed):
        where = kueue.placement(observed)
        pods = (children.pod(job, index, attempt, settings, gang=gang) for index in missing)
        writes += [Create(kueue.placed(pod, where)) for pod in pods]
    draft.resolved(
        Resolved(
            nodes=job.spec.nodes.count,
            proc_per_node=children.resolve_processes(job.spec),
            gang="native" if gang else "unavailable" if observed.misses_gang else "none",
            workspace_claim=workspace.claim(job),
            workspace_path=workspace.path(job),
            # Written only once all pods have been seen: until then a missing pod was not created yet.
            created_attempt=created_attempt(job.status) if missing else attempt,
            inputs=cache.resolved(job),
        )
    )
    draft.running(current, tuple(group for group in observed.gangs if group.attempt == attempt))
    draft.admitted(kueue.admitted_to(observed))
    writes += kueue.entries(observed, now, free=False)
    writes += kueue.up(observed, draft.all_up, now)
    # That the job runs is told at once; what changes on the way there may wait for the next change.
    return Plan(draft.result(), tuple(writes), urgent=draft.became_running, requeue_after=draft.due_after)


def plan_failure(observed: Observed, failure: Failure, draft: StatusDraft, now: datetime) -> Plan[TrainingJobStatus]:
    """A pod has failed: another attempt, or the end."""
    job = observed.job
    failure = aborted_at_end(failure, finished=_finished(observed))
    draft.last_failure(
        LastFailure(
            time=now,
            attempt=job.status.attempt,
            pod=failure.pod,
            node=failure.node,
            index=failure.index,
            container=failure.container,
            exit_code=failure.exit_code,
            reason=failure.reason,
            cause=str(failure.cause),
            message=failure.message,
        )
    )
    before = job.status.last_failure.time if job.status.last_failure is not None else None
    verdict = decide(job.spec.failure_policy, draft.restarts, failure.cause, now, before, _furthest(observed))
    if isinstance(verdict, GiveUp):
        message = f"{verdict.explanation}; pod {failure.pod}: {failure.message}"
        draft.failed(verdict.reason, message)
        event = Event("Warning", str(verdict.reason), message)
        return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))
    draft.restarts = verdict.restarts
    return plan_next_attempt(draft, failure.cause, f"pod {failure.pod}: {failure.message}")


def plan_next_attempt(draft: StatusDraft, cause: Reason, why: str) -> Plan[TrainingJobStatus]:
    """Raise the attempt, in status first: whoever reads it from now on knows that older pods must go."""
    draft.next_attempt(cause, why)
    kind: EventType = "Normal" if cause in _WANTED else "Warning"
    event = Event(kind, str(cause), f"attempt {draft.attempt} starts: {why}")
    return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))


def plan_edited(
    observed: Observed, draft: StatusDraft, change: tuple[Reason, str], *, runs_on: bool
) -> Plan[TrainingJobStatus]:
    """The spec has moved on: another attempt. Pods that run well are only stopped for some that may be made."""
    plan = plan_next_attempt(draft, *change)
    return replace(plan, writes=prepare.next_pods(observed)) if runs_on else plan


def plan_stopping(
    observed: Observed, stale: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Plan[TrainingJobStatus]:
    """Pods of an earlier attempt go all at once; the next attempt's are created when none lives any more."""
    _forgive(observed, stale, draft)
    stuck = nodeloss.stuck(observed, stale, now)
    draft.stopping(stale, stuck)
    gangs = prepare.remove_gangs(observed, upto=observed.job.status.attempt - 1)
    writes = (*deletions((*stale, *evidence.leftovers(observed))), *gangs)
    return Plan(draft.result(), writes, requeue_after=nodeloss.next_look(stale, now))


def _forgive(observed: Observed, stale: tuple[PodView, ...], draft: StatusDraft) -> None:
    """A failure that was counted before it was known that another pod's node is lost is no fault of the program.

    Ranks that wait for one on a dead machine may give up before the cluster has missed that machine.
    """
    last, attempt = observed.job.status.last_failure, observed.job.status.attempt
    pod = nodeloss.first_lost(observed, stale)
    if last is None or pod is None or last.attempt != attempt - 1 or not draft.restarts.counted_times:
        return
    cause = next((cause for cause in COUNTED if cause == last.cause), None)
    if cause is None or pod.attempt != last.attempt or pod.node == last.node:
        return
    draft.restarts = forgive(draft.restarts, cause)
    message = f"node {pod.node} of pod {pod.name} {observed.lost_nodes[pod.node]}; pod {last.pod} then: {last.message}"
    draft.last_failure(last.model_copy(update={"cause": str(Reason.DISRUPTION), "message": shorten(message)}))


def plan_suspended(
    observed: Observed, left: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Plan[TrainingJobStatus]:
    """The user wants no pods: they end, with their grace period to write a checkpoint."""
    tried = (*observed.probes, *observed.fetchers, *observed.checkers)
    others = (*prepare.remove_gangs(observed, upto=observed.job.status.attempt), *tasks.deletions(tried))
    if left:
        stuck = nodeloss.stuck(observed, left, now)
        # Known before the pods are gone: one that is resumed meanwhile has not lost them to somebody else.
        first = not was_suspended(observed.job.status)
        draft.suspending(len(left), stuck)
        writes = (*deletions((*left, *evidence.leftovers(observed))), *others)
        return Plan(draft.result(), writes, urgent=first, requeue_after=nodeloss.next_look(left, now))
    draft.suspended()
    writes = (*deletions(evidence.leftovers(observed)), *others, *kueue.removal(observed))
    return Plan(draft.result(), writes, urgent=True)


def plan_waiting(
    observed: Observed, left: tuple[PodView, ...], waiting: kueue.Waiting, draft: StatusDraft, now: datetime
) -> Plan[TrainingJobStatus]:
    """The job waits for quota. If it has lost what it had, its pods end, with their grace period for a checkpoint."""
    gangs = prepare.remove_gangs(observed, upto=observed.job.status.attempt)
    gone = deletions((*left, *evidence.leftovers(observed)))
    writes: tuple[Write, ...] = (*gone, *gangs, *tasks.deletions(observed.probes))
    if left:
        # As in a suspension it is known before the pods are gone why they go.
        first = not kueue.waited(observed.job.status)
        draft.leaving(len(left), waiting.reason, waiting.message, nodeloss.stuck(observed, left, now))
        events = (Event("Warning", str(waiting.reason), waiting.message),) if first else ()
        return Plan(draft.result(), writes, urgent=first, requeue_after=nodeloss.next_look(left, now), events=events)
    draft.queued(waiting.reason, waiting.message, stalled=waiting.stalled)
    writes = (*writes, *kueue.entries(observed, now, free=True))
    return Plan(draft.result(), writes, requeue_after=waiting.requeue_after)


def plan_admitted(observed: Observed, draft: StatusDraft) -> Plan[TrainingJobStatus]:
    """The job waits no longer, in status first: pods that there are from now on are made by this quota."""
    draft.admitted(kueue.admitted_to(observed))
    if has_run(observed):
        return plan_next_attempt(draft, Reason.ADMITTED, "the job has quota again")
    draft.running((), ())
    return Plan(draft.result(), urgent=True, requeue_after=0)


def was_suspended(status: TrainingJobStatus) -> bool:
    """The pods were removed, or are being removed, on request."""
    found = find(status.conditions, ConditionType.SUSPENDED)
    return found is not None and (found.status == "True" or found.reason == Reason.STOPPING_PODS)


def has_run(observed: Observed) -> bool:
    """There have been pods of the job, or a gang that waited for them: their names are not used again."""
    status = observed.job.status
    told = status.start_time is not None or status.attempt > 0 or created_attempt(status) >= 0
    return told or bool(observed.pods or observed.gangs)


def changed(observed: Observed, current: tuple[PodView, ...]) -> tuple[Reason, str] | None:
    """Whether the spec has moved on since the current pods, or the gang that waits for them, were made."""
    spec, count = observed.job.spec, observed.job.spec.nodes.count
    size = count if observed.wants_gang else 0
    gangs = (group for group in observed.gangs if group.attempt == observed.job.status.attempt)
    same = all(children.is_of(made_of, spec) for made_of in {pod.template_hash for pod in current})
    if same and all(group.size == size for group in gangs):
        return None
    resolved = observed.job.status.resolved
    if resolved is not None and resolved.nodes not in (0, count):
        return Reason.RESIZED, f"spec.nodes.count changed from {resolved.nodes} to {count}"
    return Reason.TEMPLATE_CHANGED, "the pod settings in spec changed"


def deletions(pods: Iterable[PodView]) -> tuple[Delete, ...]:
    """Remove pods that are not on their way out yet. One that ends by itself keeps its log if it is let."""
    return tuple(Delete("Pod", pod.name, pod.uid) for pod in pods if not (pod.terminating or pod.ending))


def _finished(observed: Observed) -> bool:
    """The program has reported that no step of this attempt is left."""
    report, written = observed.progress, observed.job.status.progress
    reported = report is not None and report.attempt == observed.job.status.attempt and report.finished
    return reported or (
        written is not None and written.attempt == observed.job.status.attempt and progress.is_finished(written)
    )


def _furthest(observed: Observed) -> int:
    """The step to which the job would go back, or, of a program that reports no checkpoints, has got."""
    status, report = observed.job.status, observed.progress
    saved = [status.checkpoint.step] if status.checkpoint is not None else []
    if report is not None and report.checkpoint_step is not None:
        saved.append(report.checkpoint_step)
    seen = [status.progress.step] if status.progress is not None else []
    if report is not None:
        seen.append(report.step)
    return max(saved or seen, default=0)


def _seconds_until(time: datetime | None, now: datetime) -> float:
    return 0.0 if time is None else max(0.0, (time - now).total_seconds())
