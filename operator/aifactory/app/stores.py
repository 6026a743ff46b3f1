"""What the process knows about the cluster, and whom a change of it wakes.

One store per resource. `connect` says which keys a change concerns; that is the only place where kinds meet, and they
meet as keys: nobody's planner calls another's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine import custom
from aifactory.engine.custom import Stored
from aifactory.kube.objects import Claim, ConfigMap, Deployment, Pod, PodGroup, Service, decoder
from aifactory.kube.resources import Key
from aifactory.kube.store import Change, Store, by_controller
from aifactory.models.kind import versions_of

Wake = Callable[[Key, bool], None]
"""Add a key to a controller's queue; the flag tells that nothing happened just now (first list)."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Every store of the process."""

    jobs: Store[Stored[TrainingJob]]
    versions: Store[Stored[ModelVersion]]
    pools: Store[Stored[InferencePool]]
    pods: Store[Pod]
    services: Store[Service]
    configs: Store[ConfigMap]
    claims: Store[Claim]
    deployments: Store[Deployment]
    gangs: Store[PodGroup]


def make_stores() -> Stores:
    """Empty stores with the indexes that the kinds read."""
    controller = {"controller": by_controller}
    return Stores(
        jobs=Store(custom.decoder(TrainingJob)),
        versions=Store(custom.decoder(ModelVersion), indexes={"model": _model_of_version}),
        pools=Store(custom.decoder(InferencePool), indexes={"model": _models_of_pool}),
        pods=Store(decoder(Pod), indexes={"controller": by_controller, "pool": _pool_of_pod}),
        services=Store(decoder(Service)),
        configs=Store(decoder(ConfigMap), indexes=controller),
        claims=Store(decoder(Claim)),
        deployments=Store(decoder(Deployment), indexes=controller),
        gangs=Store(decoder(PodGroup), indexes=controller),
    )


def connect(stores: Stores, *, job: Wake, version: Wake, pool: Wake) -> None:
    """From now on every change in a store wakes the keys it concerns."""
    by_kind = {"TrainingJob": job, "ModelVersion": version, "InferencePool": pool}

    def owner(change: Change[Any]) -> None:
        meta = change.object.metadata
        reference = meta.controller
        if reference is not None and (wake := by_kind.get(reference.kind)) is not None:
            wake(Key(meta.namespace, reference.name), change.background)

    def pod(change: Change[Pod]) -> None:
        meta = change.object.metadata
        if meta.labels.get(names.LABEL_ROLE) == names.ROLE_SERVE:
            pool(Key(meta.namespace, meta.labels.get(names.LABEL_POOL, "")), change.background)
        else:
            owner(change)

    def model_version(change: Change[Stored[ModelVersion]]) -> None:
        meta = change.object.metadata
        version(Key(meta.namespace, meta.name), change.background)
        if job_name := meta.labels.get(names.LABEL_JOB):
            job(Key(meta.namespace, job_name), change.background)
        for value in _model_of_version(change.object):
            for found in stores.pools.by("model", value):
                pool(Key(found.metadata.namespace, found.metadata.name), change.background)

    def inference_pool(change: Change[Stored[InferencePool]]) -> None:
        meta = change.object.metadata
        pool(Key(meta.namespace, meta.name), change.background)
        for name in _served(change.old) ^ _served(change.new):
            version(Key(meta.namespace, name), change.background)

    def training_job(change: Change[Stored[TrainingJob]]) -> None:
        job(Key(change.object.metadata.namespace, change.object.metadata.name), change.background)

    stores.jobs.subscribe(training_job)
    stores.versions.subscribe(model_version)
    stores.pools.subscribe(inference_pool)
    stores.pods.subscribe(pod)
    for children in (stores.services, stores.configs, stores.claims, stores.deployments, stores.gangs):
        children.subscribe(owner)


def _served(stored: Stored[InferencePool] | None) -> set[str]:
    return versions_of(stored.model) if stored is not None and stored.model is not None else set()


def _model_of_version(stored: Stored[ModelVersion]) -> Iterable[Hashable]:
    return () if stored.model is None else ((stored.metadata.namespace, stored.model.spec.model),)


def _models_of_pool(stored: Stored[InferencePool]) -> Iterable[Hashable]:
    if stored.model is None:
        return ()
    return tuple((stored.metadata.namespace, model.name) for model in stored.model.spec.models)


def _pool_of_pod(pod: Pod) -> Iterable[Hashable]:
    labels = pod.metadata.labels
    if labels.get(names.LABEL_ROLE) != names.ROLE_SERVE:
        return ()
    return ((pod.metadata.namespace, labels.get(names.LABEL_POOL, "")),)
