"""From succeeded pods to a ModelVersion: publish, register, and only then complete.

The publisher copies to a content-addressed place, so running it again is harmless. A version number is taken by
creating the ModelVersion of that name; who comes second sees the first one and takes the next number.

Training may have cost days, so the job fails only for what no retry can change. A store that is down or full, or
credentials that are refused, are waited for as long as it takes, with the reason in `Stalled`.

An end is decided upon once more at once: side containers may still run, and their pods go only then.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from aifactory.api import names
from aifactory.api.base import format_time
from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import OutputStatus, TrainingJobStatus
from aifactory.engine.decision import Decision, Notice, Removal
from aifactory.engine.pods import TaskPod, needs_person, retry_seconds
from aifactory.training import children
from aifactory.training.state import Observed, PodView, VersionView
from aifactory.training.status import StatusDraft

MAX_PUBLISH_ATTEMPTS = 6
"""Publishers without a known reason to fail (evicted, crashed) before the job fails."""
REGISTER_RETRY_SECONDS = 2.0

_PERMANENT = frozenset({Reason.INVALID_ARTIFACT, Reason.SOURCE_NOT_FOUND, Reason.DIGEST_MISMATCH})
"""Reasons of the publisher that another try cannot change: training has ended and left what it left."""
_MENDABLE = frozenset({Reason.ACCESS_DENIED, Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""Reasons of the publisher that pass, or that a person can remove while the result waits in the workspace."""


def plan_publishing(
    observed: Observed, current: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Decision[TrainingJobStatus]:
    """The job's pods have succeeded; see to its output."""
    job = observed.job
    if job.spec.output is None:
        draft.complete("all pods succeeded; spec.output is not set, so nothing was published")
        return Decision(draft.result(), urgent=True, again_after=0)

    mine = next((v for v in observed.versions if v.job_uid == job.metadata.uid), None)
    if mine is not None:
        return _completed(draft, mine)

    number = draft.output.publish_attempt
    publisher = next((view for view in observed.publishers if view.number == number), None)
    # Also while the publisher exists: it waits for the claim, which may have failed to be created beside it.
    needs_claim = job.spec.output.store is None and not observed.model_claim_exists
    claim = (children.model_claim(job, observed.settings),) if needs_claim else ()
    if publisher is None:
        body = children.publisher(job, number, observed.settings)
        draft.publishing("the publisher is being created")
        earlier = tuple(Removal("Pod", view.name, view.uid) for view in observed.publishers)
        return Decision(draft.result(), creates=(*claim, body), removals=earlier)
    if publisher.phase == "Succeeded":
        return _register(observed, current, publisher, draft, now)
    if publisher.phase == "Failed":
        return _publisher_failed(publisher, draft, now)
    trouble, message = needs_person(publisher) or (None, _message(publisher))
    draft.publishing(message, trouble)
    return Decision(draft.result(), creates=claim)


def _register(
    observed: Observed, current: tuple[PodView, ...], publisher: TaskPod, draft: StatusDraft, now: datetime
) -> Decision[TrainingJobStatus]:
    published = publisher.answer
    if not (isinstance(published.get("uri"), str) and isinstance(published.get("digest"), str)):
        return _publisher_failed(publisher, draft, now)
    wanted = observed.job.spec.output.model.format if observed.job.spec.output is not None else ""
    if published.get("format", wanted) != wanted:
        message = (
            f"the training program wrote a model of format {published['format']} and output.model.format is {wanted}: "
            "create another TrainingJob with the right one"
        )
        draft.failed(Reason.PUBLISH_FAILED, message)
        return Decision(
            draft.result(), urgent=True, again_after=0, notices=(Notice("Warning", "PublishFailed", message),)
        )
    version = max((view.version for view in observed.versions), default=0) + 1
    image = next((pod.image for pod in current if pod.index == 0), "")
    draft.publishing("the ModelVersion is being created")
    body = children.model_version(observed.job, version, published, image)
    # Another job may have taken the number at this moment: look again soon and take the next one.
    return Decision(draft.result(), creates=(body,), again_after=REGISTER_RETRY_SECONDS)


def _completed(draft: StatusDraft, version: VersionView) -> Decision[TrainingJobStatus]:
    found = {"model_version": version.name, "uri": version.uri, "digest": version.digest}
    draft.update(output=draft.output.model_copy(update=found))
    draft.complete(f"all pods succeeded; the result is ModelVersion {version.name}")
    return Decision(draft.result(), urgent=True, again_after=0)


def _publisher_failed(publisher: TaskPod, draft: StatusDraft, now: datetime) -> Decision[TrainingJobStatus]:
    answer, number = publisher.answer, publisher.number
    words = str(answer.get("message") or publisher.message or f"see: kubectl logs {publisher.name}")
    mendable = next((reason for reason in _MENDABLE if reason == answer.get("reason")), None)
    if answer.get("reason") in _PERMANENT or (mendable is None and number + 1 >= MAX_PUBLISH_ATTEMPTS):
        message = shorten(f"pod {publisher.name}: {words}")
        draft.failed(Reason.PUBLISH_FAILED, message)
        return Decision(
            draft.result(), urgent=True, again_after=0, notices=(Notice("Warning", "PublishFailed", message),)
        )
    due = draft.output.next_publish_time or now + timedelta(seconds=retry_seconds(number))
    if due > now:
        draft.update(output=draft.output.model_copy(update={"next_publish_time": due}))
        message = f"pod {publisher.name}: {shorten(words, 800)}; it is tried again at {format_time(due)}"
        draft.publishing(message, mendable)
        return Decision(draft.result(), urgent=True, again_after=(due - now).total_seconds())
    draft.update(output=OutputStatus(publish_attempt=number + 1))
    draft.publishing(f"pod {publisher.name}: {shorten(words, 800)}; it is being tried again", mendable)
    return Decision(draft.result(), urgent=True, again_after=0)


def _message(publisher: TaskPod) -> str:
    if publisher.unschedulable:
        return f"pod {publisher.name} has no node: {publisher.unschedulable}"
    if publisher.waiting_message:
        return f"pod {publisher.name} is waiting ({publisher.waiting_reason}): {publisher.waiting_message}"
    return f"pod {publisher.name} copies {names.WORKSPACE_MOUNT}/output to the model store"
