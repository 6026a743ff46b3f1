"""Which informers, controllers and settings the process is made of; no life cycle here.

The simulator in `tests/sim` builds its process from the same functions.
"""

from __future__ import annotations

import logging
import random
from typing import Any

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, Throughput
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.app import shell
from aifactory.app.options import Options
from aifactory.app.probes import ServingBook, ServingPod
from aifactory.app.progress import ProgressBook, Reporter, ReportingPod
from aifactory.app.stores import Controllers, Stores
from aifactory.engine import custom
from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.engine.kind import Kind
from aifactory.engine.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS
from aifactory.kube import podstate
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.errors import NotFound
from aifactory.kube.events import EventRecorder
from aifactory.kube.informer import Informer
from aifactory.kube.lease import LeaseConfig
from aifactory.kube.objects import Claim, ConfigMap, Deployment, Pod, PodGroup, Service
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, PODGROUPS, PODS, PVCS, SERVICES, Key
from aifactory.models.kind import ModelKind, ModelStores
from aifactory.models.state import Settings as ModelSettings
from aifactory.serving.kind import ServingKind, ServingStores
from aifactory.serving.state import Settings as ServingSettings
from aifactory.training.kind import TrainingKind, TrainingStores
from aifactory.training.state import Settings as TrainingSettings

logger = logging.getLogger(__name__)

LEASE_NAME = "aifactory-operator"
OURS = f"{names.LABEL_MANAGED_BY}={names.LABEL_MANAGED_BY_VALUE}"


def watched(stores: Stores) -> tuple[shell.Watched, ...]:
    """Our three kinds, for kopf."""
    return (
        shell.Watched(TRAININGJOBS, custom.parser(TrainingJob), stores.jobs),
        shell.Watched(MODELVERSIONS, custom.parser(ModelVersion), stores.versions),
        shell.Watched(INFERENCEPOOLS, custom.parser(InferencePool), stores.pools),
    )


def make_informers(
    api: Api, stores: Stores, options: Options, *, gangs: bool, clock: Clock, rng: random.Random
) -> list[Informer[Any]]:
    """Informers for everything we make; what others make is not even received."""

    def informer(resource: Any, type_: Any, store: Any) -> Informer[Any]:
        return Informer(
            api,
            resource,
            type_,
            store,
            namespace=options.namespace,
            label_selector=OURS,
            silence_seconds=options.silence_seconds,
            clock=clock,
            rng=rng,
        )

    found = [
        informer(PODS, Pod, stores.pods),
        informer(SERVICES, Service, stores.services),
        informer(CONFIGMAPS, ConfigMap, stores.configs),
        informer(PVCS, Claim, stores.claims),
        informer(DEPLOYMENTS, Deployment, stores.deployments),
    ]
    return [*found, informer(PODGROUPS, PodGroup, stores.gangs)] if gangs else found


def make_controllers(
    api: Api,
    stores: Stores,
    options: Options,
    recorder: EventRecorder,
    progress: ProgressBook,
    serving: ServingBook,
    *,
    gangs: bool,
    clock: Clock,
    rng: random.Random,
) -> Controllers:
    """The three controllers with one executor."""
    executor = Executor(
        api,
        {
            TRAININGJOBS: stores.jobs,
            MODELVERSIONS: stores.versions,
            INFERENCEPOOLS: stores.pools,
            PODS: stores.pods,
            SERVICES: stores.services,
            CONFIGMAPS: stores.configs,
            PVCS: stores.claims,
            DEPLOYMENTS: stores.deployments,
            PODGROUPS: stores.gangs,
        },
        clock=clock,
    )
    training = TrainingKind(
        TrainingStores(stores.jobs, stores.pods, stores.services, stores.claims, stores.gangs, stores.versions),
        TrainingSettings(
            agent_image=options.agent_image,
            progress_url=options.progress_url,
            gang_served=gangs,
            model_claim_size=options.model_claim_size,
            model_claim_storage_class=options.model_claim_storage_class,
        ),
        progress.get,
    )
    models = ModelKind(ModelStores(stores.versions, stores.pods, stores.pools), ModelSettings(options.agent_image))
    pools = ServingKind(
        ServingStores(stores.pools, stores.versions, stores.deployments, stores.configs, stores.services, stores.pods),
        ServingSettings(server_image=options.server_image, agent_image=options.agent_image),
        serving.load_error,
        lambda key: throughput(serving, key),
    )

    def controller(kind: Kind[Any]) -> Controller[Any]:
        queue: WorkQueue[Key] = WorkQueue(kind.name, rng=rng)
        return Controller(kind, executor, recorder=recorder, queue=queue, workers=options.workers, clock=clock)

    return Controllers(controller(training), controller(models), controller(pools))


async def gang_served(api: Api, namespace: str | None) -> bool:
    """Whether the API server serves PodGroup of scheduling.k8s.io/v1beta1 (Kubernetes 1.37, a beta API)."""
    try:
        await api.list(PODGROUPS, namespace=namespace, limit=1)
    except NotFound:
        logger.info("%s of %s is not served: pods are scheduled one by one", PODGROUPS.plural, PODGROUPS.api_version)
        return False
    return True


def lease_config(options: Options) -> LeaseConfig:
    """The lease, with the usual proportions between its times."""
    return LeaseConfig(
        namespace=options.lease_namespace,
        name=LEASE_NAME,
        identity=options.identity,
        address=f"{options.address}:{options.progress_port}",
        duration=options.lease_seconds,
        renew_deadline=options.lease_seconds * 2 / 3,
        retry=options.lease_seconds * 2 / 15,
    )


def reporting_pod(stores: Stores, reporter: Reporter) -> ReportingPod | None:
    """The training pod behind a token, if it is one of ours and still that one."""
    pod = stores.pods.get(reporter.namespace, reporter.pod)
    if pod is None or pod.metadata.uid != reporter.uid:
        return None
    labels, owner = pod.metadata.labels, pod.metadata.controller
    attempt = labels.get(names.LABEL_ATTEMPT, "")
    if owner is None or labels.get(names.LABEL_ROLE) != names.ROLE_NODE or not attempt.isdecimal():
        return None
    return ReportingPod(job_name=owner.name, job_uid=owner.uid, attempt=int(attempt))


def serving_pods(stores: Stores) -> list[ServingPod]:
    """The serving pods that can be asked."""
    return [
        ServingPod(
            uid=pod.metadata.uid,
            address=pod.status.pod_ip,
            pool=(pod.metadata.namespace, pod.metadata.labels[names.LABEL_POOL]),
            ready=podstate.is_ready(pod),
        )
        for _, pods in stores.pods.groups("pool")
        for pod in pods
        if pod.status.pod_ip and pod.metadata.deletion_timestamp is None and _is_of_its_pool(stores, pod)
    ]


def _is_of_its_pool(stores: Stores, pod: Pod) -> bool:
    """A label anybody can write; what asks to be asked must belong to a Deployment that we made for that pool."""
    meta = pod.metadata
    owner, pool = meta.controller, meta.labels.get(names.LABEL_POOL)
    if owner is None or owner.kind != "ReplicaSet" or not pool:
        return False
    # A ReplicaSet is named after its Deployment and a hash of the template.
    deployment = stores.deployments.get(meta.namespace, owner.name.rpartition("-")[0])
    return deployment is not None and deployment.metadata.labels.get(names.LABEL_POOL) == pool


def throughput(book: ServingBook, key: Key) -> Throughput | None:
    """A pool's measured figures."""
    return book.throughput((key.namespace, key.name))
