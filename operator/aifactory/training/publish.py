"""The last stage, from succeeded pods to a ModelVersion: publish, register, and only then complete.

The publisher copies to a content-addressed place, so running it again is harmless. A version number is taken by
creating the ModelVersion of that name; who comes second sees the first one and takes the next number. A number
whose version is gone is not taken again (`api.numbers`).

Training may have cost days, so nothing here ends the job badly. A store that is down or full, or credentials that are
refused, are tried again as long as it takes, with the reason in `Stalled`. An output that is missing, not sound, or of
another format than was asked for waits in the workspace for a person: an edit of the job, or a new value of the
annotation aifactory.dev/retry, has it published again.

An end is decided upon once more at once: side containers may still run, and their pods go only then.
"""

from __future__ import annotations

from datetime import datetime

from aifactory.api import names
from aifactory.api.leftout import left_out, left_out_words
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import TrainingJobStatus
from aifactory.engine.plan import Create, Plan
from aifactory.engine.tasks import Json, Task, plan_task, retry_command
from aifactory.training import children, store
from aifactory.training.state import Observed, PodView, VersionView
from aifactory.training.status import StatusDraft

REGISTER_RETRY_SECONDS = 2.0

PERMANENT = frozenset({Reason.INVALID_ARTIFACT, Reason.SOURCE_NOT_FOUND, Reason.DIGEST_MISMATCH})
"""Reasons of the publisher that another try does not change: it is as training left it, until somebody mends it."""


def plan_publishing(
    observed: Observed, current: tuple[PodView, ...], draft: StatusDraft, now: datetime
) -> Plan[TrainingJobStatus]:
    """The job's pods have succeeded; see to its output."""
    job = observed.job
    if job.spec.output is None:
        draft.complete("all pods succeeded; spec.output is not set, so nothing was published")
        return Plan(draft.result(), urgent=True, requeue_after=_if_pods_live(observed))

    mine = next((v for v in observed.versions if v.job_uid == job.metadata.uid), None)
    if mine is not None:
        return _completed(observed, draft, mine)

    output = draft.output
    request = store.request_of(observed)
    renewed = output.request not in ("", request)
    step = plan_task(
        _publication(observed),
        observed.publishers,
        output.publish_attempt,
        output.next_publish_time,
        now,
        renewed=renewed,
    )
    draft.published(publish_attempt=step.number, next_publish_time=step.next_time, request=request)
    if step.answer is not None:
        draft.published(**left_out(step.answer))
        return _register(observed, current, step.answer, draft, renewed=renewed)
    message = store.told(job, step)
    if step.failed:
        message += f"; what was trained waits in the workspace: mend it there, then {_again(observed)}"
    draft.publishing(message, step.reason, stalled=step.stalled)
    return Plan(
        draft.result(),
        (*store.model_claim(observed), *step.writes),
        urgent=step.urgent,
        requeue_after=step.requeue_after,
    )


def _again(observed: Observed) -> str:
    return retry_command("TrainingJob", observed.job.metadata.name)


def _publication(observed: Observed) -> Task:
    return Task(
        name="the publisher",
        what=f"copies {names.WORKSPACE_MOUNT}/output to the model store",
        body=lambda number: children.publisher(observed.job, number, observed.settings),
        wanted=_is_receipt,
        permanent=PERMANENT,
        mendable=store.MENDABLE,
        unexplained=Reason.PUBLISHER_FAILED,
    )


def _is_receipt(answer: Json) -> bool:
    return isinstance(answer.get("uri"), str) and isinstance(answer.get("digest"), str)


def _register(
    observed: Observed, current: tuple[PodView, ...], published: Json, draft: StatusDraft, *, renewed: bool
) -> Plan[TrainingJobStatus]:
    wanted = observed.job.spec.output.model.format if observed.job.spec.output is not None else ""
    if published.get("format", wanted) != wanted:
        draft.publishing(
            f"the training program wrote a model of format {published['format']} and output.model.format is {wanted}: "
            f"set output.model.format to {published['format']}; or replace what is in the workspace, then "
            + _again(observed),
            Reason.FORMAT_MISMATCH,
            stalled=True,
        )
        if renewed:  # the files may be others now
            draft.published(publish_attempt=draft.output.publish_attempt + 1)
        return Plan(draft.result(), urgent=True, requeue_after=0 if renewed else None)
    version = max((view.version for view in observed.versions), default=0)
    version = max(version, observed.highest_version) + 1
    image = next((pod.image for pod in current if pod.index == 0), "")
    draft.publishing("the ModelVersion is being created")
    body = children.model_version(observed.job, version, published, image)
    # Another job may have taken the number at this moment: look again soon and take the next one.
    return Plan(draft.result(), (Create(body),), requeue_after=REGISTER_RETRY_SECONDS)


def _completed(observed: Observed, draft: StatusDraft, version: VersionView) -> Plan[TrainingJobStatus]:
    draft.published(model_version=version.name, uri=version.uri, digest=version.digest)
    # Once more, for whoever was stopped between the version and the status.
    if (receipt := next((pod.answer for pod in observed.publishers if _is_receipt(pod.answer)), None)) is not None:
        draft.published(**left_out(receipt))
    beside = left_out_words(draft.output.left_out_files, "status.output.leftOut")
    draft.complete(f"all pods succeeded; the result is ModelVersion {version.name}{beside}")
    return Plan(draft.result(), urgent=True, requeue_after=_if_pods_live(observed))


def _if_pods_live(observed: Observed) -> float | None:
    """When a job that has ended is looked at again: at once, if side containers of its pods live on."""
    return 0 if any(pod.live for pod in observed.pods) else None
