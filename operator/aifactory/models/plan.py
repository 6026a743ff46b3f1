"""One decision about one ModelVersion: verify and try it once, remember the answer, keep the list of users."""

from __future__ import annotations

from datetime import datetime

from aifactory.api import names
from aifactory.api.base import Condition
from aifactory.api.conditions import find, shorten
from aifactory.api.modelversion import ModelVersionStatus
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.plan import Create, Event, Patch, Plan, Write
from aifactory.engine.refusals import Refusal
from aifactory.engine.tasks import Json, Step, Task, deletions, plan_task, retry_command
from aifactory.models import children
from aifactory.models.state import Observed
from aifactory.models.status import StatusDraft

PERMANENT = frozenset({Reason.DIGEST_MISMATCH, Reason.INVALID_ARTIFACT, Reason.UNSERVABLE, Reason.VALIDATION_FAILED})
"""These stay true until somebody puts the artifact right: it is read again when asked for."""
MAX_REQUESTS_BYTES = 64 * 1024
"""Of `spec.validation.requests`: the agent gets them on its command line, which Linux limits to twice that."""
MENDABLE = frozenset({Reason.SOURCE_NOT_FOUND, Reason.ACCESS_DENIED, Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""These pass, or a person removes them: the artifact is read again."""


def plan_model_version(observed: Observed, now: datetime) -> Plan[ModelVersionStatus] | None:
    """What to do about one version now; None when there is nothing to decide.

    Args:
        observed: the version, its verifier pods and its users.
        now: the time, in UTC.
    """
    version, status = observed.version, observed.version.status
    if version.metadata.leaves_orphans:
        return None
    now = now.replace(microsecond=0)  # the precision of what is written
    draft = StatusDraft(version, observed.users, now)
    known = _known(status)
    if version.metadata.deletion_timestamp is not None:
        return _plan_deleted(observed, draft, known)
    if known is not None and known.status == "True":
        # Who uses it is what the deletion guard goes by: it can not wait for company.
        draft.found(known)
        taken = status.used_by != observed.users
        writes = (*deletions(observed.verifiers), *_write_down(observed))
        return Plan(draft.result(), writes, urgent=taken)
    request = version.metadata.annotations.get(names.ANNOTATION_RETRY, "")
    renewed = request != status.request
    if known is not None and known.reason in PERMANENT and not renewed:
        draft.found(known)
        return Plan(draft.result())
    if (size := len(children.requests_json(version))) > MAX_REQUESTS_BYTES:
        message = f"spec.validation.requests have {size} bytes as JSON, {MAX_REQUESTS_BYTES} are the most: ask for less"
        draft.stalled(Reason.INVALID_SPEC, message, known=False)
        return Plan(draft.result())

    task, number, due = _verification(observed), status.verify_attempt, status.next_verify_time
    step = plan_task(task, observed.verifiers, number, due, now, renewed=renewed)
    draft.tried(step, request)
    noted = _write_down(observed)
    if renewed:
        draft.asked_again()
    if step.answer is not None and noted:
        # Its number first: one that was never written down may be given again, so it must never have been Ready.
        return Plan(draft.result(), (*step.writes, *noted), requeue_after=0)
    if step.answer is not None:
        draft.verified(step.answer, tried=children.validates(version, observed.settings))
        return Plan(draft.result(), step.writes, urgent=True, requeue_after=0)
    if step.failed:
        reason = step.reason or Reason.VERIFIER_FAILED
        again = retry_command("ModelVersion", version.metadata.name)
        message = f"{step.message}; put the artifact right, then {again}; or publish the next version"
        answer = _answer(observed, step.number)
        if reason is Reason.VALIDATION_FAILED and _is_verdict(answer):
            draft.invalid(answer, message)
        else:
            draft.stalled(reason, message, known=True)
        event = Event("Warning", str(reason), shorten(step.message))
        return Plan(draft.result(), step.writes, urgent=True, events=(event,))
    draft.verifying(step)
    writes = (*step.writes, *noted)
    return Plan(draft.result(), writes, urgent=step.urgent, requeue_after=step.requeue_after)


def _known(status: ModelVersionStatus) -> Condition | None:
    """The fact that an earlier reading has found: what is wrong with it, if something is."""
    validated = find(status.conditions, ConditionType.VALIDATED)
    if validated is not None and validated.status == "False":
        return validated
    return find(status.conditions, ConditionType.VERIFIED)


def _answer(observed: Observed, number: int) -> Json:
    return next((pod.answer for pod in observed.verifiers if pod.number == number), {})


def _plan_deleted(observed: Observed, draft: StatusDraft, known: Condition | None) -> Plan[ModelVersionStatus]:
    """Somebody's finalizer holds the version: it is not read any more, and what is known about it stands."""
    if known is not None and known.status != "Unknown":
        draft.found(known)
    else:
        draft.verifying(Step(observed.version.status.verify_attempt, "it is being deleted and not read any more"))
    return Plan(draft.result(), deletions(pod for pod in observed.verifiers if not pod.ended))


def _write_down(observed: Observed) -> tuple[Write, ...]:
    """The version's number, if it is the highest so far; of two that are written at once neither gets lost."""
    body, counter = children.counter(observed.version), observed.counter
    if counter is None:
        return (Create(body, shared=True),)
    if counter.highest >= observed.version.spec.version:
        return ()
    parts = {name: body["metadata"][name] for name in ("labels", "annotations")}
    return (Patch("ConfigMap", counter.name, {"metadata": {**parts, "resourceVersion": counter.resource_version}}),)


def plan_refused(observed: Observed, refusal: Refusal, now: datetime) -> Plan[ModelVersionStatus]:
    """The API server refused the verifier: its words, and what comes next."""
    draft = StatusDraft(observed.version, observed.users, now)
    draft.refused(refusal)
    return Plan(draft.result(), requeue_after=refusal.retry_after)


def _verification(observed: Observed) -> Task:
    return Task(
        name="the verifier",
        what=_work(observed),
        body=lambda number: children.verifier(observed.version, number, observed.settings),
        wanted=_is_verdict,
        permanent=PERMANENT,
        mendable=MENDABLE,
        unexplained=Reason.VERIFIER_FAILED,
    )


def _work(observed: Observed) -> str:
    tries = children.validates(observed.version, observed.settings)
    return "reads the artifact and tries it" if tries else "reads the artifact"


def _is_verdict(answer: Json) -> bool:
    return isinstance(answer.get("digest"), str)
