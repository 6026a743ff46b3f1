"""From succeeded pods to a ModelVersion: publish, register, and only then complete.

The publisher copies to a content-addressed place, so running it again is harmless. A version number is taken by
creating the ModelVersion of that name; who comes second sees the first one and takes the next number.
"""

from __future__ import annotations

import json
from typing import Any

from aifactory.api import names
from aifactory.api.conditions import shorten
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import OutputStatus, TrainingJobStatus
from aifactory.engine.decision import Decision, Notice
from aifactory.training import children
from aifactory.training.state import Observed, PodView, PublishView
from aifactory.training.status import StatusDraft

MAX_PUBLISH_ATTEMPTS = 3
REGISTER_RETRY_SECONDS = 2.0

_PERMANENT = frozenset({"InvalidArtifact", "SourceNotFound", "AccessDenied"})
"""Reasons of the publisher that another try cannot change."""


def plan_publishing(
    observed: Observed, current: tuple[PodView, ...], draft: StatusDraft
) -> Decision[TrainingJobStatus]:
    """The job's pods have succeeded; see to its output."""
    job = observed.job
    if job.spec.output is None:
        draft.complete("all pods succeeded; spec.output is not set, so nothing was published")
        return Decision(draft.result(), urgent=True, notices=(Notice("Normal", "Complete", "all pods succeeded"),))

    mine = next((v for v in observed.versions if v.job_uid == job.metadata.uid), None)
    if mine is not None:
        return _completed(draft, mine.name)

    number = draft.output.publish_attempt
    publisher = next((view for view in observed.publishers if view.number == number), None)
    if publisher is None:
        creates = [children.publisher(job, number, observed.settings)]
        if job.spec.output.store is None and not observed.model_claim_exists:
            creates.insert(0, children.model_claim(job, observed.settings))
        draft.publishing("the publisher is being created")
        return Decision(draft.result(), creates=tuple(creates))
    if publisher.phase == "Succeeded":
        return _register(observed, current, publisher, draft)
    if publisher.phase == "Failed":
        return _publisher_failed(publisher, number, draft)
    draft.publishing(_waiting_message(publisher), stalled=_pull_problem(publisher))
    return Decision(draft.result())


def _register(
    observed: Observed, current: tuple[PodView, ...], publisher: PublishView, draft: StatusDraft
) -> Decision[TrainingJobStatus]:
    published = _answer(publisher.message)
    if not {"uri", "digest"} <= published.keys():
        return _publisher_failed(publisher, publisher.number, draft)
    wanted = observed.job.spec.output.model.format if observed.job.spec.output is not None else ""
    if published.get("format", wanted) != wanted:
        message = (
            f"the training program wrote a model of format {published['format']} and output.model.format is {wanted}: "
            "create another TrainingJob with the right one"
        )
        draft.failed(Reason.PUBLISH_FAILED, message)
        return Decision(draft.result(), urgent=True, notices=(Notice("Warning", "PublishFailed", message),))
    version = max((view.version for view in observed.versions), default=0) + 1
    image = next((pod.image for pod in current if pod.index == 0), "")
    draft.update(output=draft.output.model_copy(update={"uri": published["uri"], "digest": published["digest"]}))
    draft.publishing("the ModelVersion is being created")
    body = children.model_version(observed.job, version, published, image)
    # Another job may have taken the number at this moment: look again soon and take the next one.
    return Decision(draft.result(), creates=(body,), again_after=REGISTER_RETRY_SECONDS)


def _completed(draft: StatusDraft, version: str) -> Decision[TrainingJobStatus]:
    draft.update(output=draft.output.model_copy(update={"model_version": version}))
    message = f"all pods succeeded; the result is ModelVersion {version}"
    draft.complete(message)
    return Decision(draft.result(), urgent=True, notices=(Notice("Normal", "Complete", message),))


def _publisher_failed(publisher: PublishView, number: int, draft: StatusDraft) -> Decision[TrainingJobStatus]:
    answer = _answer(publisher.message)
    words = str(answer.get("message") or publisher.message or f"see: kubectl logs {publisher.name}")
    if answer.get("reason") in _PERMANENT or number + 1 >= MAX_PUBLISH_ATTEMPTS:
        message = shorten(f"pod {publisher.name}: {words}")
        draft.failed(Reason.PUBLISH_FAILED, message)
        return Decision(draft.result(), urgent=True, notices=(Notice("Warning", "PublishFailed", message),))
    draft.update(output=OutputStatus(publish_attempt=number + 1))
    draft.publishing(shorten(f"publishing is tried again after pod {publisher.name}: {words}"))
    return Decision(draft.result(), urgent=True, again_after=0)


def _answer(message: str) -> dict[str, Any]:
    try:
        answer = json.loads(message)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _pull_problem(publisher: PublishView) -> bool:
    return bool(publisher.waiting_message) and "Pull" in publisher.waiting_reason


def _waiting_message(publisher: PublishView) -> str:
    if publisher.unschedulable:
        return f"pod {publisher.name} has no node: {publisher.unschedulable}"
    if publisher.waiting_message:
        return f"pod {publisher.name} is waiting ({publisher.waiting_reason}): {publisher.waiting_message}"
    return f"pod {publisher.name} copies {names.WORKSPACE_MOUNT}/output to the model store"
