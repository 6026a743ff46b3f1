"""InferencePool as the engine sees it: gather from the stores, plan, translate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aifactory.api import names
from aifactory.api.conditions import find
from aifactory.api.inferencepool import InferencePool, Throughput
from aifactory.api.modelversion import ModelVersion
from aifactory.api.reasons import ConditionType, Reason
from aifactory.engine.custom import Stored, invalid_plan
from aifactory.engine.decision import to_plan
from aifactory.engine.kinds import INFERENCEPOOLS
from aifactory.engine.plan import Plan, Subject, WriteError
from aifactory.kube import podstate
from aifactory.kube.errors import AlreadyExists
from aifactory.kube.objects import ConfigMap, Deployment, Pod, Service
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, SERVICES, Key, Resource
from aifactory.kube.store import Store
from aifactory.serving.plan import DEFAULT_REPLICAS, plan_pool
from aifactory.serving.state import ConfigView, Observed, RevisionView, ServingPodView, Settings, VersionView
from aifactory.serving.status import StatusDraft

RESOURCES: Mapping[str, Resource] = {resource.kind: resource for resource in (SERVICES, CONFIGMAPS, DEPLOYMENTS)}


@dataclass(frozen=True, slots=True)
class ServingStores:
    """Where an InferencePool's surroundings are read from.

    Deployments and config maps are indexed by `controller` (the owner's UID), pods by `pool` (namespace and pool),
    versions by `model` (namespace and model).
    """

    pools: Store[Stored[InferencePool]]
    versions: Store[Stored[ModelVersion]]
    deployments: Store[Deployment]
    configs: Store[ConfigMap]
    services: Store[Service]
    pods: Store[Pod]


@dataclass(frozen=True, slots=True)
class View:
    """A stored pool and, if it can be read, everything around it."""

    stored: Stored[InferencePool]
    observed: Observed | None


class ServingKind:
    """The engine's `Kind` for InferencePool."""

    name = "inferencepool"
    resource = INFERENCEPOOLS

    def __init__(
        self,
        stores: ServingStores,
        settings: Settings,
        load_error: Callable[[str], str],
        throughput: Callable[[Key], Throughput | None],
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._load_error = load_error
        self._throughput = throughput

    def observe(self, key: Key) -> View | None:
        """The pool and everything that belongs to it."""
        stored = self._stores.pools.get(key.namespace, key.name)
        if stored is None:
            return None
        if stored.model is None:
            return View(stored, None)
        return View(stored, self._gather(key, stored.model))

    def subject(self, view: View) -> Subject:
        """The pool as it was observed."""
        return view.stored.subject

    def plan(self, view: View, now: datetime) -> Plan:
        """What to do now."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        decision = plan_pool(view.observed, now)
        if decision is None:
            return Plan()
        return to_plan(decision, namespace=view.stored.metadata.namespace, resources=RESOURCES)

    def on_error(self, view: View, errors: Sequence[WriteError], now: datetime) -> Plan:
        """The API server refused an object for good: its words go into the status."""
        if view.observed is None:
            return invalid_plan(view.stored, now)
        pool = view.observed.pool
        wanted = DEFAULT_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
        draft = StatusDraft(view.observed, wanted, now)
        first = errors[0]
        taken = isinstance(first.error, AlreadyExists)
        advice = "; it does not belong to this pool: rename one of them" if taken else ""
        draft.rejected(Reason.NAME_CONFLICT if taken else Reason.POD_REJECTED, f"{first.message}{advice}")
        return Plan(status=draft.result().dump())

    def _gather(self, key: Key, pool: InferencePool) -> Observed:
        meta, stores = pool.metadata, self._stores
        service = stores.services.get(meta.namespace, meta.name)
        owner = service.metadata.controller if service is not None else None
        return Observed(
            pool=pool,
            settings=self._settings,
            versions=tuple(
                version_view(stored.model)
                for stored in stores.versions.by("model", (meta.namespace, pool.spec.models[0].name))
                if stored.model is not None
            ),
            revisions=tuple(map(revision_view, stores.deployments.by("controller", meta.uid))),
            configs=tuple(map(config_view, stores.configs.by("controller", meta.uid))),
            pods=tuple(self._pod_view(pod) for pod in stores.pods.by("pool", (meta.namespace, meta.name))),
            service_exists=owner is not None and owner.uid == meta.uid,
            throughput=self._throughput(key),
        )

    def _pod_view(self, pod: Pod) -> ServingPodView:
        meta = pod.metadata
        trouble = podstate.waiting(pod)
        return ServingPodView(
            name=meta.name,
            revision=meta.labels.get(names.LABEL_REVISION, ""),
            ready=podstate.is_ready(pod),
            terminating=meta.deletion_timestamp is not None,
            waiting_reason=trouble.reason,
            waiting_message=trouble.message,
            unschedulable=podstate.unschedulable(pod),
            load_error=self._load_error(meta.uid),
        )


def version_view(version: ModelVersion) -> VersionView:
    """A ModelVersion as planning sees it."""
    ready = find(version.status.conditions, ConditionType.READY)
    secret = version.spec.source.secret_ref
    return VersionView(
        name=version.metadata.name,
        model=version.spec.model,
        version=version.spec.version,
        uri=version.spec.source.uri,
        digest=version.status.resolved_digest,
        format=version.spec.format,
        secret=secret.name if secret is not None else None,
        ready=ready is not None and ready.status == "True",
        reason=ready.reason if ready is not None else "",
        message=ready.message if ready is not None else "",
        deleting=version.metadata.deletion_timestamp is not None,
    )


def revision_view(deployment: Deployment) -> RevisionView:
    """A Deployment as planning sees it."""
    meta, status = deployment.metadata, deployment.status
    return RevisionView(
        name=meta.name,
        uid=meta.uid,
        revision=meta.labels.get(names.LABEL_REVISION, ""),
        wanted=deployment.spec.replicas,
        replicas=status.replicas,
        ready=status.ready_replicas,
        terminating=meta.deletion_timestamp is not None,
    )


def config_view(config: ConfigMap) -> ConfigView:
    """A ConfigMap as planning sees it."""
    return ConfigView(config.metadata.name, config.metadata.uid, config.metadata.labels.get(names.LABEL_REVISION, ""))
