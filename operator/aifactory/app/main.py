"""One operator process from start to end. Read `run` first.

Order matters at both ends. Start: informers and kopf fill the stores, and only when every store is complete and this
process leads do workers start; a plan made from half a view would be wrong. End: workers finish what they are doing,
the lease is given up so that a successor need not wait, and kopf ends last because it cancels what was started after
it. A process that loses its lease stops acting and exits; its replacement starts clean.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import kopf

from aifactory import __version__
from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, Throughput
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.app import options as cli
from aifactory.app import shell
from aifactory.app.options import Options
from aifactory.app.probes import ServingBook, ServingPod, ServingProbe
from aifactory.app.progress import ProgressBook, ProgressEndpoint, Reporter, ReportingPod
from aifactory.app.review import ApiTokenReviewer
from aifactory.app.stores import Controllers, Stores, connect, make_stores
from aifactory.app.web import Health, serve
from aifactory.engine import custom
from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.engine.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS
from aifactory.kube import auth, podstate
from aifactory.kube.api import Api
from aifactory.kube.client import Client
from aifactory.kube.clock import SystemClock
from aifactory.kube.errors import NotFound
from aifactory.kube.events import EventRecorder
from aifactory.kube.informer import Informer
from aifactory.kube.lease import LeaderElection, LeaseConfig
from aifactory.kube.objects import Claim, ConfigMap, Deployment, Pod, PodGroup, Service
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
GRACE_SECONDS = 10.0
"""Reconciles in progress get this long to end."""


def main() -> int:
    """Run until SIGTERM or SIGINT (0) or until something is lost that only a fresh start mends (1)."""
    options = cli.parse()
    logging.basicConfig(
        level=options.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    # Thousands of long-lived objects: the default thresholds spend a third of the CPU on looking at them again.
    gc.set_threshold(50_000, 20, 100)
    try:
        return asyncio.run(run(options))
    except auth.AuthError as error:
        print(f"aifactory-operator: {error}", file=sys.stderr)
        return 1


async def run(options: Options) -> int:
    """One process; the exit code."""
    clock = SystemClock()
    provider = auth.SessionProvider(await auth.connect(), user_agent=f"aifactory-operator/{__version__}")
    api = Client(provider)
    stores = make_stores()
    gangs = await gang_served(api, options.namespace)
    informers = make_informers(api, stores, options.namespace, gangs=gangs)
    recorder = EventRecorder(api, controller=names.MANAGED_BY, instance=options.identity)
    progress, serving = ProgressBook(), ServingBook()
    controllers = make_controllers(api, stores, options, recorder, progress, serving, gangs=gangs)
    connect(stores, controllers)
    stores.jobs.subscribe(lambda change: progress.forget(change.object.metadata.uid) if change.new is None else None)
    election = LeaderElection(api, lease_config(options))
    leading = asyncio.Event()
    stop = asyncio.Event()
    health = Health(clock)

    endpoint = ProgressEndpoint(
        book=progress,
        review=ApiTokenReviewer(api),
        find_pod=lambda reporter: reporting_pod(stores, reporter),
        wake=lambda namespace, job: controllers.jobs.queue.add(Key(namespace, job)),
        leading=leading.is_set,
        leader_address=lambda: election.leader_address,
        now=clock.now,
        monotonic=clock.monotonic,
    )
    probe = ServingProbe(
        book=serving,
        pods=lambda: serving_pods(stores) if leading.is_set() else [],
        wake=lambda pool: controllers.pools.queue.add(Key(*pool)),
        monotonic=clock.monotonic,
    )
    kinds = watched(stores)
    kopf_stop = asyncio.Event()
    background: list[asyncio.Task[Any]] = []

    def spawn(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run beside the rest; its end, which is never wanted, ends the process."""
        task = asyncio.create_task(work, name=name)
        background.append(task)
        return task

    for informer in informers:
        spawn(informer.run(), f"informer-{informer.resource.plural}")
    spawn(recorder.run(), "events")
    spawn(probe.run(), "probe")
    spawn(health.run(), "health")
    spawn(lead(controllers, election, leading, health, options), "lead")
    web = await serve(options, health, endpoint)
    shell_task = spawn(run_kopf(options, kinds, provider, kopf_stop, stop), "kopf")

    async def ready() -> None:
        await asyncio.gather(*(informer.synced.wait() for informer in informers))
        await shell.wait_listed(api, kinds, options.namespace)
        gc.collect()
        gc.freeze()
        health.ready = True
        logger.info("every store is complete: %d jobs, %d pods", len(stores.jobs), len(stores.pods))
        await shell.audit(api, kinds, options.namespace)

    spawn(ready(), "ready")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
    ended = [task for task in background if task.done()]
    for task in ended:
        logger.error("%s ended: %s", task.get_name(), task.exception() if not task.cancelled() else "cancelled")

    logger.info("stopping")
    health.ready = False
    for controller in (controllers.jobs, controllers.versions, controllers.pools):
        controller.queue.shut_down()
    if leading.is_set():
        await asyncio.gather(
            *(c.stop(GRACE_SECONDS) for c in (controllers.jobs, controllers.versions, controllers.pools))
        )
        leading.clear()
        if options.leader_elect:
            await election.release()
    kopf_stop.set()
    await asyncio.wait([shell_task], timeout=GRACE_SECONDS)
    for task in (*background, stopping):
        task.cancel()
    await asyncio.gather(*background, stopping, return_exceptions=True)
    await web.cleanup()
    await api.close()
    await provider.close()
    return 1 if ended else 0


async def lead(
    controllers: Controllers, election: LeaderElection, leading: asyncio.Event, health: Health, options: Options
) -> None:
    """Once every store is complete and this process leads: work. Returns when leadership is lost."""
    await health.wait_ready()
    if options.leader_elect:
        await election.acquire()
    leading.set()
    async with asyncio.TaskGroup() as group:
        for controller in controllers.all():
            group.create_task(controller.run())
        if options.leader_elect:
            await election.hold()
            leading.clear()
            raise LeadershipLost


class LeadershipLost(Exception):
    """Another replica may lead from now on."""


async def run_kopf(
    options: Options,
    kinds: tuple[shell.Watched, ...],
    provider: auth.SessionProvider,
    kopf_stop: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """kopf, until `kopf_stop`. Its signal handlers are replaced by ours: it must end last."""
    connection = provider.connection

    def login() -> kopf.AiohttpSession:
        return kopf.AiohttpSession(
            server=connection.server, default_namespace=connection.namespace, aiohttp_session=provider.session()
        )

    started = asyncio.Event()

    async def handle_signals() -> None:
        await started.wait()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    signals = asyncio.create_task(handle_signals(), name="signals")
    try:
        await kopf.operator(
            registry=shell.registry(kinds, login),
            settings=shell.settings(),
            standalone=True,
            clusterwide=options.namespace is None,
            namespaces=[options.namespace] if options.namespace is not None else [],
            stop_flag=kopf_stop,
            ready_flag=started,
        )
    finally:
        signals.cancel()


def watched(stores: Stores) -> tuple[shell.Watched, ...]:
    """Our three kinds, for kopf."""
    return (
        shell.Watched(TRAININGJOBS, custom.parser(TrainingJob), stores.jobs),
        shell.Watched(MODELVERSIONS, custom.parser(ModelVersion), stores.versions),
        shell.Watched(INFERENCEPOOLS, custom.parser(InferencePool), stores.pools),
    )


def make_informers(api: Api, stores: Stores, namespace: str | None, *, gangs: bool) -> list[Informer[Any]]:
    """Informers for everything we make; what others make is not even received."""

    def informer(resource: Any, type_: Any, store: Any) -> Informer[Any]:
        return Informer(api, resource, type_, store, namespace=namespace, label_selector=OURS)

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
    return Controllers(
        Controller(training, executor, recorder=recorder, workers=options.workers),
        Controller(models, executor, recorder=recorder, workers=options.workers),
        Controller(pools, executor, recorder=recorder, workers=options.workers),
    )


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
            pool=(pod.metadata.namespace, pod.metadata.labels.get(names.LABEL_POOL, "")),
            ready=podstate.is_ready(pod),
        )
        for pod in stores.pods.all()
        if pod.metadata.labels.get(names.LABEL_ROLE) == names.ROLE_SERVE
        and pod.status.pod_ip
        and pod.metadata.deletion_timestamp is None
    ]


def throughput(book: ServingBook, key: Key) -> Throughput | None:
    """A pool's measured figures."""
    return book.throughput((key.namespace, key.name))
