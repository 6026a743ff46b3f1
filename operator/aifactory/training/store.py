"""Where a job publishes to, found good before its first pod asks for a GPU.

A Secret without the right keys, a bucket that is not there or a claim that nobody may write to would otherwise show
when days of training have ended. A pod writes, reads and deletes something small where the publisher will write, and is
tried again until it can. What it found out is kept in the status, so that it is asked once.

For the namespace's own claim, and for a store on the job's workspace, there is no such pod. A claim that is mounted for
the first time may be bound to wherever that pod happens to run, and the publisher, which needs the workspace too, would
then fit on no node; and who may write there is settled by the settings that the workspace is written with. For those
the API server is asked whether it would make claim and publisher (quota, Pod Security, service account).
"""

from __future__ import annotations

from datetime import datetime

from aifactory.api import names
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import TrainingJob, TrainingJobStatus
from aifactory.engine.plan import Create, DryRun, Plan, Write
from aifactory.engine.tasks import Json, Step, Task, plan_task
from aifactory.training import children
from aifactory.training.state import Observed
from aifactory.training.status import StatusDraft

MENDABLE = frozenset({Reason.ACCESS_DENIED, Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""What a store answers that passes, or that a person removes."""


def plan_probing(observed: Observed, draft: StatusDraft, now: datetime) -> Plan[TrainingJobStatus] | None:
    """What comes before the first pod of a job that has never run; None when there is nothing to find out."""
    job = observed.job
    if job.spec.output is None or draft.output.probed == (store := children.store_of(job)):
        return None
    number, request = draft.output.publish_attempt, request_of(observed)
    if job.spec.output.store is None or children.is_on_workspace(job):
        draft.published(probed=store)
        draft.probing(f"the publisher to {store} can be made")
        writes = (*model_claim(observed), DryRun(children.publisher(job, number, observed.settings)))
        return Plan(draft.result(), writes, urgent=True, requeue_after=0)
    renewed = draft.output.request not in ("", request)
    step = plan_task(_probing(observed), observed.probes, number, draft.output.next_publish_time, now, renewed=renewed)
    if step.answer is not None:
        draft.published(probed=store, publish_attempt=0, next_publish_time=None, request=request)
        draft.probing(f"{store} takes what is written to it")
        return Plan(draft.result(), step.writes, urgent=True, requeue_after=0)
    draft.published(publish_attempt=step.number, next_publish_time=step.next_time, request=request)
    message = told(job, step)
    if step.failed:
        message += "; output.store can not be changed: create another TrainingJob"
    draft.probing(message, step.reason, stalled=step.stalled)
    return Plan(draft.result(), step.writes, urgent=step.urgent, requeue_after=step.requeue_after)


def told(job: TrainingJob, step: Step) -> str:
    """Where a task of the store stands; what the store itself has answered begins with its name and the Secret's."""
    if step.reason not in MENDABLE or job.spec.output is None:
        return step.message
    secret = job.spec.output.secret_ref
    return f"{children.store_of(job)}{f' with Secret {secret.name}' if secret is not None else ''}: {step.message}"


def request_of(observed: Observed) -> str:
    """Stands for what was asked for; another one asks for another try."""
    meta = observed.job.metadata
    return f"{meta.generation}/{meta.annotations.get(names.ANNOTATION_RETRY, '')}"


def model_claim(observed: Observed) -> tuple[Write, ...]:
    """The namespace's claim for models, if it is to be made. Also beside the publisher, which waits for the claim."""
    job = observed.job
    if job.spec.output is None or job.spec.output.store is not None or observed.model_claim_exists:
        return ()
    return (Create(children.model_claim(job, observed.settings), shared=True),)


def _probing(observed: Observed) -> Task:
    return Task(
        name="the probe",
        what=f"writes something small to {children.store_of(observed.job)}, reads and deletes it",
        body=lambda number: children.probe(observed.job, number, observed.settings),
        wanted=_is_good,
        permanent=frozenset({Reason.INVALID_ARTIFACT}),
        mendable=MENDABLE | {Reason.SOURCE_NOT_FOUND},
        unexplained=Reason.PROBE_FAILED,
    )


def _is_good(answer: Json) -> bool:
    return isinstance(answer.get("uri"), str)
