"""One decision about one TrainingJob: the story of a reconcile.

A job goes through three stages: `prepare` (with `store`, `inputs` and `checks`), `train`, `publish`. Each step below
either ends the story with a plan or falls through to the next; the order is the order of precedence. Nothing here does
I/O or reads a clock.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from aifactory.api import names
from aifactory.api.conditions import is_true
from aifactory.api.reasons import ConditionType, Reason
from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine import tasks
from aifactory.engine.plan import Plan
from aifactory.training import checks, evidence, inputs, kueue, nodeloss, train
from aifactory.training.detectors import first_failure
from aifactory.training.publish import plan_publishing
from aifactory.training.state import Observed, PodView
from aifactory.training.status import StatusDraft, all_succeeded, finished
from aifactory.training.store import plan_probing

STALE_VIEW_RETRY_SECONDS = 1.0


def plan_training(observed: Observed, now: datetime) -> Plan[TrainingJobStatus] | None:
    """What to do about one job now; None when it is not ours to touch or there is nothing to decide.

    Args:
        observed: the job and everything that belongs to it, from one moment's stores.
        now: the time, in UTC.
    """
    job = observed.job
    if (job.spec.managed_by or names.MANAGED_BY) != names.MANAGED_BY or job.metadata.leaves_orphans:
        return None
    now = now.replace(microsecond=0)  # the precision of what is written
    if is_true(job.status.conditions, ConditionType.COMPLETE) or is_true(job.status.conditions, ConditionType.FAILED):
        return _plan_finished(observed, now)

    attempt = job.status.attempt
    current = tuple(pod for pod in observed.pods if pod.attempt == attempt)
    if job.metadata.deletion_timestamp is not None:
        return _plan_deleted(observed, StatusDraft(observed, current, now), now)
    stale = tuple(pod for pod in observed.pods if pod.attempt < attempt and pod.live)
    made = (*(pod.attempt for pod in observed.pods), *(gang.attempt for gang in observed.gangs))
    if (newest := max(made, default=0)) > attempt:
        return _plan_behind(job.status, newest)

    draft = StatusDraft(observed, current, now)
    if _have_succeeded(observed, current):
        plan = plan_publishing(observed, current, draft, now)
        done = kueue.finished(observed, True, "all pods that train have succeeded", now)
        return replace(plan, writes=(*plan.writes, *tasks.deletions((*observed.fetchers, *observed.checkers)), *done))
    if job.spec.suspend:
        return train.plan_suspended(observed, (*stale, *current), draft, now)
    if train.was_suspended(job.status) and train.has_run(observed):
        return train.plan_next_attempt(draft, Reason.RESUMED, "the job runs again after a suspension")
    waiting = kueue.waiting(observed, now)
    if waiting is not None and train.has_run(observed) and not kueue.may_go_on(observed):
        live = tuple(pod for pod in (*stale, *current) if pod.live)
        return train.plan_waiting(observed, live, waiting, draft, now)
    if waiting is None and kueue.waited(job.status):
        return train.plan_admitted(observed, draft)
    if stale:
        return train.plan_stopping(observed, stale, draft, now)
    failure = first_failure(observed, current)
    change = train.changed(observed, current)
    runs_on = failure is None and any(pod.live for pod in current)
    if change is not None and not runs_on:
        return train.plan_edited(observed, draft, change, runs_on=False)
    if failure is not None:
        return train.plan_failure(observed, failure, draft, now)
    if not train.has_run(observed) and (probing := plan_probing(observed, draft, now)) is not None:
        return probing
    prepared = inputs.prepare(observed, current, now)
    draft.inputs(prepared)
    prepared = checks.prepare(observed, prepared, draft, now, due=change is not None or not current)
    if change is not None:
        if not prepared.ready:
            return _tidied(observed, inputs.plan_beside(prepared, current, draft))
        return train.plan_edited(observed, draft, change, runs_on=True)
    if not prepared.ready and not inputs.all_up(observed, current):
        return _tidied(observed, inputs.plan_waiting(observed, prepared, draft))
    if waiting is not None and len(current) < job.spec.nodes.count:
        plan = train.plan_waiting(observed, current, waiting, draft, now)
    else:
        plan = train.plan_running(observed, current, draft, now)
    due = inputs.soonest((plan.requeue_after, prepared.requeue_after))
    writes, urgent = (*plan.writes, *prepared.writes), plan.urgent or prepared.urgent
    return replace(plan, writes=writes, urgent=urgent, requeue_after=due)


def _tidied(observed: Observed, plan: Plan[TrainingJobStatus]) -> Plan[TrainingJobStatus]:
    """The plan, and pods of earlier attempts go of which nothing is kept."""
    return replace(plan, writes=(*plan.writes, *train.deletions(evidence.leftovers(observed))))


def _plan_finished(observed: Observed, now: datetime) -> Plan[TrainingJobStatus]:
    """Pods that outlived the job's end hold GPUs for nothing; those that ended are kept for their logs.

    Of earlier attempts one each, as while it ran.
    """
    live = tuple(pod for pod in observed.pods if pod.live)
    writes = (
        *train.deletions((*live, *evidence.leftovers(observed))),
        *tasks.deletions((*observed.fetchers, *observed.checkers)),
    )
    succeeded = is_true(observed.job.status.conditions, ConditionType.COMPLETE)
    done = () if live else kueue.finished(observed, succeeded, "the job has ended", now)
    return Plan(finished(observed.job, now), (*writes, *done))


def _plan_deleted(observed: Observed, draft: StatusDraft, now: datetime) -> Plan[TrainingJobStatus]:
    """Somebody's finalizer may hold the job for as long as it likes: its pods need not hold GPUs so long."""
    live = tuple(pod for pod in observed.pods if pod.live)
    helpers = (*observed.probes, *observed.fetchers, *observed.checkers, *observed.publishers)
    at_work = tuple(pod for pod in helpers if not pod.ended)
    draft.deleted(len(live) + len(at_work), nodeloss.stuck(observed, live, now))
    writes = (*train.deletions(live), *tasks.deletions(at_work), *(() if live else kueue.removal(observed)))
    return Plan(draft.result(), writes, requeue_after=nodeloss.next_look(live, now))


def _plan_behind(status: TrainingJobStatus, newest: int) -> Plan[TrainingJobStatus]:
    """Our view of the job is older than its pods or gang: acting on it could remove what a newer view created.

    The attempt is all that is written. That fails while the view is behind, because a status is written only on top of
    the version it was planned from; it succeeds where the status was lost (restored from a backup, replaced by hand).
    """
    newer = status.model_copy(update={"attempt": newest})
    return Plan(newer, urgent=True, requeue_after=STALE_VIEW_RETRY_SECONDS)


def _have_succeeded(observed: Observed, current: tuple[PodView, ...]) -> bool:
    """Every pod succeeded, now or, as recorded, before somebody cleaned them up.

    Asked before everything else that could stop or restart the job: work that is done is published.
    """
    if all_succeeded(observed.job.status.nodes):
        return True
    done = {pod.index for pod in current if pod.succeeded}
    return done >= set(range(observed.job.spec.nodes.count))
