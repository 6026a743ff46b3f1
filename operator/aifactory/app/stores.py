"""What the process knows about the cluster, and whom a change of it wakes.

One store per resource. `connect` says which keys a change concerns; that is the only place where kinds meet, and they
meet as keys: nobody's planner calls another's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine import custom
from aifactory.engine.controller import Controller
from aifactory.engine.custom import Stored
from aifactory.engine.wakeups import wake_by, wake_owner
from aifactory.kube.objects import Claim, ConfigMap, Deployment, Pod, PodGroup, Service, decoder
from aifactory.kube.resources import Key
from aifactory.kube.store import Store, by_controller
from aifactory.models.kind import versions_of
from aifactory.serving.kind import version_view


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
        pools=Store(custom.decoder(InferencePool), indexes={"model": _models_of_pool, "version": _versions_of_pool}),
        pods=Store(decoder(Pod), indexes={"controller": by_controller, "pool": _pool_of_pod}),
        services=Store(decoder(Service)),
        configs=Store(decoder(ConfigMap), indexes=controller),
        claims=Store(decoder(Claim)),
        deployments=Store(decoder(Deployment), indexes=controller),
        gangs=Store(decoder(PodGroup), indexes=controller),
    )


@dataclass(frozen=True, slots=True)
class Controllers:
    """One controller for each kind."""

    jobs: Controller[Any]
    versions: Controller[Any]
    pools: Controller[Any]

    def all(self) -> tuple[Controller[Any], ...]:
        """The three."""
        return (self.jobs, self.versions, self.pools)


def connect(stores: Stores, controllers: Controllers) -> None:
    """From now on every change in a store wakes the keys it concerns."""
    jobs, versions, pools = controllers.jobs, controllers.versions, controllers.pools
    stores.jobs.subscribe(jobs.wake)
    stores.versions.subscribe(versions.wake)
    stores.pools.subscribe(pools.wake)

    # A version concerns the pools that may want it and the job that made it. What uses it by now is told in its status
    # as well: if that woke the pools, each of a thousand would wake all others.
    stores.versions.subscribe(
        wake_by(pools.queue, lambda version: _pools_of(stores, version), view=_version_as_pools_see_it)
    )
    stores.versions.subscribe(wake_by(jobs.queue, _job_of_version))
    # A pool concerns the versions it uses, and those it has just stopped using.
    stores.pools.subscribe(wake_by(versions.queue, _versions_of_pool, view=lambda pool: tuple(_versions_of_pool(pool))))

    for controller, kind in ((jobs, "TrainingJob"), (versions, "ModelVersion"), (pools, "InferencePool")):
        owner = wake_owner(controller.queue, kind, names.GROUP)
        for children in (stores.pods, stores.services, stores.configs, stores.claims, stores.deployments, stores.gangs):
            children.subscribe(owner)
    # Serving pods belong to a Deployment's ReplicaSet; their pool is in a label.
    stores.pods.subscribe(wake_by(pools.queue, lambda pod: (Key(*value) for value in _pool_of_pod(pod))))


def _pools_of(stores: Stores, version: Stored[ModelVersion]) -> Iterable[Key]:
    for value in _model_of_version(version):
        for pool in stores.pools.by("model", value):
            yield Key(pool.metadata.namespace, pool.metadata.name)


def _job_of_version(version: Stored[ModelVersion]) -> Iterable[Key]:
    job = version.metadata.labels.get(names.LABEL_JOB)
    return (Key(version.metadata.namespace, job),) if job else ()


def _version_as_pools_see_it(stored: Stored[ModelVersion]) -> Any:
    return None if stored.model is None else version_view(stored.model)


def _versions_of_pool(pool: Stored[InferencePool]) -> Iterable[Key]:
    """Versions the pool uses, whatever model its spec names by now."""
    names_ = versions_of(pool.model) if pool.model is not None else set()
    return (Key(pool.metadata.namespace, name) for name in sorted(names_))


def _model_of_version(stored: Stored[ModelVersion]) -> Iterable[Hashable]:
    return () if stored.model is None else ((stored.metadata.namespace, stored.model.spec.model),)


def _models_of_pool(stored: Stored[InferencePool]) -> Iterable[Hashable]:
    if stored.model is None:
        return ()
    return tuple((stored.metadata.namespace, model.name) for model in stored.model.spec.models)


def _pool_of_pod(pod: Pod) -> Iterable[tuple[str, str]]:
    labels = pod.metadata.labels
    if labels.get(names.LABEL_ROLE) != names.ROLE_SERVE:
        return ()
    return ((pod.metadata.namespace, labels.get(names.LABEL_POOL, "")),)
