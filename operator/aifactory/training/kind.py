"""TrainingJob as the engine sees it: gather from the stores, plan, translate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifactory.api import names
from aifactory.api.modelversion import ModelVersion
from aifactory.api.reasons import Reason
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.custom import Stored, invalid_plan
from aifactory.engine.decision import to_plan
from aifactory.engine.kinds import MODELVERSIONS, TRAININGJOBS
from aifactory.engine.plan import Plan, Subject, WriteError
from aifactory.engine.pods import task_pod
from aifactory.kube import podstate
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.objects import Claim, Pod, PodGroup, Service, condition
from aifactory.kube.resources import PODGROUPS, PODS, PVCS, SERVICES, Key, Resource
from aifactory.kube.store import Store
from aifactory.training import children
from aifactory.training.plan import plan_training
from aifactory.training.state import GangView, Observed, PodView, ProgressReport, Settings, VersionView
from aifactory.training.status import StatusDraft

RESOURCES: Mapping[str, Resource] = {
    resource.kind: resource for resource in (PODS, SERVICES, PVCS, PODGROUPS, MODELVERSIONS)
}


@dataclass(frozen=True, slots=True)
class TrainingStores:
    """Where a TrainingJob's surroundings are read from.

    Pods and pod groups are indexed by `controller` (the owner's UID), versions by `model` (namespace and model).
    """

    jobs: Store[Stored[TrainingJob]]
    pods: Store[Pod]
    services: Store[Service]
    claims: Store[Claim]
    gangs: Store[PodGroup]
    versions: Store[Stored[ModelVersion]]


@dataclass(frozen=True, slots=True)
class View:
    """A stored job and, if it can be read, everything around it."""

    stored: Stored[TrainingJob]
    observed: Observed | None


class TrainingKind:
    """The engine's `Kind` for TrainingJob."""

    name = "trainingjob"
    resource = TRAININGJOBS

    def __init__(
        self, stores: TrainingStores, settings: Settings, progress: Callable[[str], ProgressReport | None]
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._progress = progress

    def observe(self, key: Key) -> View | None:
        """The job and everything that belongs to it."""
        stored = self._stores.jobs.get(key.namespace, key.name)
        if stored is None:
            return None
        if stored.model is None:
            return View(stored, None)
        return View(stored, self._gather(stored.model))

    def subject(self, view: View) -> Subject:
        """The job as it was observed."""
        return view.stored.subject

    def plan(self, view: View, now: datetime) -> Plan:
        """What to do now."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        decision = plan_training(view.observed, now)
        if decision is None:
            return Plan()
        return to_plan(decision, namespace=view.stored.metadata.namespace, resources=RESOURCES, shared=_is_model_claim)

    def on_error(self, view: View, errors: Sequence[WriteError], now: datetime) -> Plan:
        """The API server refused an object for good: its words go into the status."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        observed = view.observed
        draft = StatusDraft(observed, _current(observed), now)
        first = errors[0]
        if isinstance(first.error, AlreadyExists):
            draft.name_taken(first.target)
        else:
            draft.rejected(Reason.POD_REJECTED, first.message)
        return Plan(status=draft.result().dump(), requeue_after=draft.due_after)

    def _gather(self, job: TrainingJob) -> Observed:
        meta, stores = job.metadata, self._stores
        pods, publishers = [], []
        for pod in stores.pods.by("controller", meta.uid):
            if pod.metadata.labels.get(names.LABEL_ROLE) == names.ROLE_PUBLISH:
                publishers.append(task_pod(pod, "publish"))
            else:
                pods.append(pod_view(pod))
        return Observed(
            job=job,
            settings=self._settings,
            pods=tuple(sorted(pods, key=lambda view: (view.attempt, view.index))),
            publishers=tuple(publishers),
            gangs=tuple(map(gang_view, stores.gangs.by("controller", meta.uid))),
            versions=self._versions(job),
            service_uid=_own_uid(stores.services.get(meta.namespace, meta.name), meta.uid),
            workspace_exists=bool(_own_uid(stores.claims.get(meta.namespace, children.workspace_claim(job)), meta.uid)),
            model_claim_exists=stores.claims.get(meta.namespace, names.MODEL_CLAIM) is not None,
            progress=self._progress(meta.uid),
        )

    def _versions(self, job: TrainingJob) -> tuple[VersionView, ...]:
        if job.spec.output is None:
            return ()
        found = self._stores.versions.by("model", (job.metadata.namespace, job.spec.output.model.name))
        return tuple(
            VersionView(
                name=stored.metadata.name,
                version=stored.model.spec.version,
                job_uid=stored.metadata.labels.get(names.LABEL_JOB_UID, ""),
                uri=stored.model.spec.source.uri,
                digest=stored.model.spec.digest or "",
            )
            for stored in found
            if stored.model is not None
        )


def pod_view(pod: Pod) -> PodView:
    """A training pod as planning sees it."""
    meta = pod.metadata
    end = podstate.ended(pod, names.CONTAINER_TRAINER)
    trouble = podstate.waiting(pod)
    trainer = podstate.container(pod, names.CONTAINER_TRAINER)
    return PodView(
        name=meta.name,
        uid=meta.uid,
        attempt=_number(meta.labels.get(names.LABEL_ATTEMPT)),
        index=_number(meta.labels.get(names.LABEL_NODE_INDEX)),
        template_hash=meta.labels.get(children.LABEL_TEMPLATE_HASH, ""),
        phase=pod.status.phase,
        node=pod.spec.node_name,
        running=podstate.is_running(pod, names.CONTAINER_TRAINER),
        terminating=meta.deletion_timestamp is not None,
        exit_code=end.exit_code if end is not None else None,
        exit_reason=(end.reason if end is not None else "") or pod.status.reason,
        exit_message=(end.message if end is not None else "") or pod.status.message,
        finished_at=end.finished_at if end is not None else None,
        disruption=podstate.disruption(pod),
        waiting_reason=trouble.reason,
        waiting_message=trouble.message,
        unschedulable=podstate.unschedulable(pod),
        image=(trainer.image_id or trainer.image) if trainer is not None else "",
    )


def gang_view(gang: PodGroup) -> GangView:
    """A PodGroup as planning sees it."""
    scheduled = condition(gang.status.conditions, "PodGroupInitiallyScheduled")
    words = scheduled.message if scheduled is not None and scheduled.status == "False" else ""
    attempt = _number(gang.metadata.labels.get(names.LABEL_ATTEMPT))
    size = gang.spec.scheduling_policy.gang.min_count
    terminating = gang.metadata.deletion_timestamp is not None
    return GangView(gang.metadata.name, gang.metadata.uid, attempt, size, terminating, words)


def _current(observed: Observed) -> tuple[PodView, ...]:
    return tuple(pod for pod in observed.pods if pod.attempt == observed.job.status.attempt)


def _own_uid(found: Service | Claim | None, owner_uid: str) -> str:
    """The UID of what was found, if it belongs to that owner; else empty."""
    owner = found.metadata.controller if found is not None else None
    return found.metadata.uid if found is not None and owner is not None and owner.uid == owner_uid else ""


def _is_model_claim(body: Mapping[str, Any]) -> bool:
    return bool(body["kind"] == PVCS.kind and body["metadata"]["name"] == names.MODEL_CLAIM)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else -1
