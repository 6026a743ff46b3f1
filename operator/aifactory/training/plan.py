"""One decision about one TrainingJob: the story of a reconcile.

Read `plan_training` first. Each step either ends the story with a decision or falls through to the next; the order is
the order of precedence. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from aifactory.api import names
from aifactory.api.conditions import find, is_true
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import LastFailure, Resolved, TrainingJobStatus
from aifactory.engine.decision import Decision, Notice, Removal
from aifactory.engine.plan import EventType
from aifactory.training import children
from aifactory.training.failures import Failure, first_failure
from aifactory.training.publish import plan_publishing
from aifactory.training.restarts import GiveUp, decide
from aifactory.training.state import Observed, PodView
from aifactory.training.status import StatusDraft, all_succeeded

STALE_VIEW_RETRY_SECONDS = 1.0


def plan_training(observed: Observed, now: datetime) -> Decision[TrainingJobStatus] | None:
    """What to do about one job now; None when it is not ours to touch or there is nothing to decide.

    Args:
        observed: the job and everything that belongs to it, from one moment's stores.
        now: the time, in UTC.
    """
    job = observed.job
    if (job.spec.managed_by or names.MANAGED_BY) != names.MANAGED_BY or job.metadata.deletion_timestamp is not None:
        return None
    if is_true(job.status.conditions, ConditionType.COMPLETE) or is_true(job.status.conditions, ConditionType.FAILED):
        return _plan_finished(observed)

    now = now.replace(microsecond=0)  # the precision of what is written
    attempt = job.status.attempt
    current = tuple(pod for pod in observed.pods if pod.attempt == attempt)
    stale = tuple(pod for pod in observed.pods if pod.attempt < attempt)
    made = (*(pod.attempt for pod in observed.pods), *(gang.attempt for gang in observed.gangs))
    if (newest := max(made, default=0)) > attempt:
        return _plan_behind(job.status, newest)

    draft = StatusDraft(observed, current, now)
    if _all_succeeded(observed, current):
        return plan_publishing(observed, current, draft, now)
    if job.spec.suspend:
        return _plan_suspended(observed, draft)
    if _was_suspended(job.status):
        return _next_attempt(draft, Reason.RESUMED, "the job runs again after a suspension")
    if stale:
        return _plan_stopping(observed, stale, draft)
    if (change := _changed(observed, current)) is not None:
        return _next_attempt(draft, *change)
    if (failure := first_failure(current, _missing(observed, current))) is not None:
        return _plan_failure(observed, failure, draft, now)
    return _plan_running(observed, current, draft, now)


def _plan_finished(observed: Observed) -> Decision[TrainingJobStatus] | None:
    """Pods that outlived the job's end hold GPUs for nothing; those that ended are kept for their logs."""
    removals = _removals(pod for pod in observed.pods if pod.live)
    status = observed.job.status.model_copy(update={"observed_generation": observed.job.metadata.generation})
    return Decision(status=status, removals=removals)


def _plan_behind(status: TrainingJobStatus, newest: int) -> Decision[TrainingJobStatus]:
    """Our view of the job is older than its pods or gang: acting on it could remove what a newer view created.

    The attempt is all that is written. That fails while the view is behind, because a status is written only on top of
    the version it was planned from; it succeeds where the status was lost (restored from a backup, replaced by hand).
    """
    return Decision(status.model_copy(update={"attempt": newest}), urgent=True, again_after=STALE_VIEW_RETRY_SECONDS)


def _plan_suspended(observed: Observed, draft: StatusDraft) -> Decision[TrainingJobStatus]:
    if observed.pods:
        # Known before the pods are gone: one that is resumed meanwhile has not lost them to somebody else.
        first = not _was_suspended(observed.job.status)
        draft.suspending(len(observed.pods))
        removals = (*_removals(observed.pods), *_gang_removals(observed, upto=observed.job.status.attempt))
        return Decision(draft.result(), removals=removals, urgent=first)
    draft.suspended()
    removals = _gang_removals(observed, upto=observed.job.status.attempt)
    return Decision(draft.result(), removals=removals, urgent=True)


def _was_suspended(status: TrainingJobStatus) -> bool:
    """The pods were removed, or are being removed, on request."""
    found = find(status.conditions, ConditionType.SUSPENDED)
    return found is not None and (found.status == "True" or found.reason == Reason.STOPPING_PODS)


def _plan_stopping(observed: Observed, stale: tuple[PodView, ...], draft: StatusDraft) -> Decision[TrainingJobStatus]:
    """Pods of an earlier attempt go all at once; the next attempt's are created when they are gone."""
    draft.stopping(stale)
    removals = (*_removals(stale), *_gang_removals(observed, upto=observed.job.status.attempt - 1))
    return Decision(draft.result(), removals=removals)


def _plan_failure(
    observed: Observed, failure: Failure, draft: StatusDraft, now: datetime
) -> Decision[TrainingJobStatus]:
    job = observed.job
    last = LastFailure(
        time=now,
        attempt=job.status.attempt,
        pod=failure.pod,
        node=failure.node,
        index=failure.index,
        exit_code=failure.exit_code,
        reason=failure.reason,
        cause=str(failure.cause),
        message=failure.message,
    )
    draft.update(last_failure=last)
    before = job.status.last_failure.time if job.status.last_failure is not None else None
    verdict = decide(job.spec.failure_policy, draft.restarts, failure.cause, now, before)
    if isinstance(verdict, GiveUp):
        message = f"{verdict.explanation}; pod {failure.pod}: {failure.message}"
        draft.failed(verdict.reason, message)
        notice = Notice("Warning", str(verdict.reason), message)
        return Decision(draft.result(), urgent=True, again_after=0, notices=(notice,))
    draft.update(restarts=verdict.restarts)
    return _next_attempt(draft, failure.cause, f"pod {failure.pod}: {failure.message}")


def _next_attempt(draft: StatusDraft, cause: Reason, why: str) -> Decision[TrainingJobStatus]:
    """Raise the attempt, in status first: whoever reads it from now on knows that older pods must go."""
    draft.next_attempt(cause, why)
    kind: EventType = "Normal" if cause in (Reason.RESUMED, Reason.RESIZED, Reason.TEMPLATE_CHANGED) else "Warning"
    notice = Notice(kind, str(cause), f"attempt {draft.attempt} starts: {why}")
    return Decision(draft.result(), urgent=True, again_after=0, notices=(notice,))


def _plan_running(
    observed: Observed, current: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Decision[TrainingJobStatus]:
    job, settings = observed.job, observed.settings
    attempt = job.status.attempt
    wait = _seconds_until(draft.restarts.next_attempt_time, now)
    if not current and wait > 0:
        draft.backing_off()
        return Decision(draft.result(), again_after=wait)

    missing = sorted(set(range(job.spec.nodes.count)) - {pod.index for pod in current})
    creates = []
    if children.owns_workspace(job) and not observed.workspace_exists:
        # Pods come after it: the claim of that name may still be that of a deleted job, and a pod that mounted it
        # would train on that job's checkpoints and keep the claim from ever going.
        creates.append(children.workspace(job))
    else:
        creates += [children.pod(job, index, attempt, settings) for index in missing]
    gang = children.wants_gang(job.spec, settings)
    if gang and not any(group.attempt == attempt for group in observed.gangs):
        creates.insert(0, children.gang(job, attempt))
    if job.spec.nodes.count > 1 and not observed.service_uid:
        creates.insert(0, children.service(job))
    removals = _gang_removals(observed, upto=attempt - 1)
    if job.spec.nodes.count == 1 and observed.service_uid:
        removals = (*removals, Removal("Service", job.metadata.name, observed.service_uid))
    draft.update(
        resolved=Resolved(
            nodes=job.spec.nodes.count,
            proc_per_node=children.resolve_processes(job.spec),
            gang="native" if gang else "none",
            workspace_claim=children.workspace_claim(job),
            # Written only once all pods have been seen: until then a missing pod was not created yet.
            created_attempt=_created_attempt(job.status) if missing else attempt,
        )
    )
    draft.running(current, tuple(group for group in observed.gangs if group.attempt == attempt))
    # That the job runs is told at once; what changes on the way there may wait for the next change.
    return Decision(
        draft.result(),
        creates=tuple(creates),
        removals=removals,
        urgent=draft.became_running,
        again_after=draft.due_after,
    )


def _all_succeeded(observed: Observed, current: tuple[PodView, ...]) -> bool:
    """Every pod succeeded, now or, as recorded, before somebody cleaned them up.

    Asked before everything else that could stop or restart the job: work that is done is published.
    """
    if all_succeeded(observed.job.status.nodes):
        return True
    done = {pod.index for pod in current if pod.succeeded}
    return done >= set(range(observed.job.spec.nodes.count))


def _changed(observed: Observed, current: tuple[PodView, ...]) -> tuple[Reason, str] | None:
    """Whether the spec has moved on since the current pods, or the gang that waits for them, were made."""
    spec, count = observed.job.spec, observed.job.spec.nodes.count
    wanted, size = children.template_hash(spec), count if children.wants_gang(spec, observed.settings) else 0
    gangs = (group for group in observed.gangs if group.attempt == observed.job.status.attempt)
    if all(pod.template_hash == wanted for pod in current) and all(group.size == size for group in gangs):
        return None
    resolved = observed.job.status.resolved
    if resolved is not None and resolved.nodes not in (0, count):
        return Reason.RESIZED, f"spec.nodes.count changed from {resolved.nodes} to {count}"
    return Reason.TEMPLATE_CHANGED, "the pod settings in spec changed"


def _missing(observed: Observed, current: tuple[PodView, ...]) -> list[tuple[int, str]]:
    """Pods of this attempt that had all been created and are gone."""
    status = observed.job.status
    if _created_attempt(status) != status.attempt:
        return []
    seen = {pod.index for pod in current}
    nodes = status.resolved.nodes if status.resolved is not None else 0
    name = observed.job.metadata.name
    return [(i, children.pod_name(name, i, status.attempt)) for i in range(nodes) if i not in seen]


def _created_attempt(status: TrainingJobStatus) -> int:
    return status.resolved.created_attempt if status.resolved is not None else -1


def _removals(pods: Iterable[PodView]) -> tuple[Removal, ...]:
    return tuple(Removal("Pod", pod.name, pod.uid) for pod in pods if not pod.terminating)


def _gang_removals(observed: Observed, upto: int) -> tuple[Removal, ...]:
    due = (group for group in observed.gangs if group.attempt <= upto and not group.terminating)
    return tuple(Removal("PodGroup", group.name, group.uid) for group in due)


def _seconds_until(time: datetime | None, now: datetime) -> float:
    return 0.0 if time is None else max(0.0, (time - now).total_seconds())
