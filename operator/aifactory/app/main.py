"""One operator process from start to end. Read `Process.run` first.

Order matters at both ends. Start: informers and kopf fill the stores, and only when every store is complete and this
process leads do workers start; a plan made from half a view would be wrong. End: workers finish what they are doing,
the lease is given up so that a successor need not wait, and kopf ends last. A process that loses its lease, or any of
its parts, stops acting and exits; its replacement starts clean.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from aifactory import __version__
from aifactory.api import names
from aifactory.app import domains as kinds
from aifactory.app import options as cli
from aifactory.app import shell, wiring
from aifactory.app.options import Options
from aifactory.app.web import Health, Servers, serve
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Domain, Outside
from aifactory.engine.podevents import PodEvents
from aifactory.kube import auth
from aifactory.kube.api import Api
from aifactory.kube.backoff import READ
from aifactory.kube.client import Client
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import KubeError, NotFound
from aifactory.kube.events import EventRecorder
from aifactory.kube.fence import Fenced
from aifactory.kube.lease import LeaderElection
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS, Resource
from aifactory.kube.retry import Retrying

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Reconciles in progress get this long to end."""
START_SECONDS = 50.0
"""An API server that is away gets this long to come back; the chart's startup probe allows a little more."""


def main(domains: Sequence[type[Domain[Any, Any]]] = kinds.DOMAINS) -> int:
    """Run until SIGTERM or SIGINT (0) or until something is lost that only a fresh start mends (1)."""
    options = cli.parse(domains)
    logging.basicConfig(
        level=options.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    # Thousands of long-lived objects: the default thresholds spend a third of the CPU on looking at them again.
    gc.set_threshold(50_000, 20, 100)
    try:
        return asyncio.run(run(options, domains))
    except (auth.AuthError, KubeError) as error:
        print(f"aifactory-operator: {error}", file=sys.stderr)
        return 1


async def run(options: Options, domains: Sequence[type[Domain[Any, Any]]]) -> int:
    """One process; returns the exit code."""
    provider = auth.SessionProvider(await auth.connect(), user_agent=f"aifactory-operator/{__version__}")
    api = Client(provider)
    try:
        made = kinds.make(options, domains)
        served = await first_answer(api, made, options.namespace)
        deliver = shell.Kopf(provider, options)
        return await Process(options, api, made, served, deliver, serve_http=True, on_complete=freeze_garbage).run()
    finally:
        await _end_tasks()
        await api.close()
        await provider.close()


def freeze_garbage() -> None:
    """What is here now stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


async def _end_tasks() -> None:
    """End what kopf has left behind: its watchers may swallow one cancellation, and then run for ever."""
    for _ in range(20):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)
    logger.warning("left running: %s", ", ".join(sorted(task.get_name() for task in left)))


async def first_answer(api: Api, domains: Sequence[Domain[Any, Any]], namespace: str | None) -> set[Resource]:
    """Wait until our kinds are served; returns the optional resources that are.

    A start may fall into the very outage that ended the last run, and CRDs may come after the operator. kopf must not
    start before them: a kind that is not there then is never watched.

    Raises:
        KubeError: there is no answer, or one that waiting does not improve.
    """
    loop = asyncio.get_running_loop()
    deadline, failures = loop.time() + START_SECONDS, 0
    while True:
        try:
            for resource in (domain.resource for domain in domains):
                await api.list(resource, namespace=namespace, limit=1, metadata_only=True)
            return await wiring.served(api, domains, namespace)
        except NotFound as error:
            failure: KubeError = error
            message = f"{resource} is not served by this cluster: apply the CRDs"
        except KubeError as error:
            failure = error
            message = f"the API server does not answer as it should: {error}"
        if loop.time() > deadline or not (failure.retryable or isinstance(failure, NotFound)):
            raise failure
        logger.warning("%s; looking again", message)
        failures += 1
        await asyncio.sleep(READ.delay(failures))


class Process:
    """Everything that runs in one process.

    Args:
        options: how to run.
        api: the API server; each call is sent once.
        domains: what is reconciled.
        served: the optional resources that the API server serves.
        deliver: brings the custom resources into the stores.
        serve_http: open the ports.
        on_complete: called once when every store is complete for the first time.
        health: how the process judges itself.
        clock: the time.
        rng: source of jitter; a seeded one makes a simulated run repeatable.
    """

    def __init__(
        self,
        options: Options,
        api: Api,
        domains: Sequence[Domain[Any, Any]],
        served: Collection[Resource],
        deliver: shell.Shell,
        *,
        serve_http: bool = False,
        on_complete: Callable[[], None] = lambda: None,
        health: Health | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        clock, rng = clock or SystemClock(), rng or random.Random()
        self._options = options
        self._api = patient = Retrying(api, rng=rng)
        self._deliver = deliver
        self._serve_http = serve_http
        self._on_complete = on_complete
        self.cluster = Cluster(domains, served)
        self._kinds = wiring.watched(self.cluster)
        self._informers = wiring.make_informers(patient, self.cluster, options, clock=clock, rng=rng)
        self._election = LeaderElection(patient, wiring.lease_config(options), clock=clock, rng=rng)
        # The fence is inside: whether we lead is asked before each try, not only before the first.
        acting = Retrying(Fenced(api, self.leading), rng=rng)
        self._recorder = EventRecorder(acting, controller=names.MANAGED_BY, instance=options.identity, clock=clock)
        self.controllers = wiring.make_controllers(acting, self.cluster, options, self._recorder, clock=clock, rng=rng)
        self._pod_events = PodEvents(patient, pods=self._pods, wake=self._wake_owner, clock=clock)
        self.cluster.explain = self._pod_events.of
        self._outsides = {
            domain: Outside(
                api=patient,
                cluster=self.cluster,
                wake=self.controllers[domain.resource].queue.add_after,
                leading=self.leading,
                leader_address=lambda: self._election.leader_address,
                clock=clock,
            )
            for domain in self.cluster.domains
        }
        self._stop = asyncio.Event()
        self._shell_stop = asyncio.Event()
        self._health = health or Health(clock)
        self._parts: list[asyncio.Task[Any]] = []

    def leading(self) -> bool:
        """Whether this replica may act now: the one truth that writes, probes and routes go by."""
        return self._election.leading or not self._options.leader_elect

    def stop(self) -> None:
        """End in order, as after SIGTERM."""
        self._stop.set()

    def kill(self) -> None:
        """End at once, as after SIGKILL, inside a process that goes on: for simulations."""
        self._stop.set()
        for part in self._parts:
            part.cancel()
        for controller in self.controllers.values():
            controller.queue.shut_down()

    async def run(self) -> int:
        """Start the parts, wait for a signal or for the end of a part, and end in order; returns the exit code."""
        web = await self._serve() if self._serve_http else None
        if self._options.leader_elect:
            await self._election.look()  # before anything is read: see `_act`
        for informer in self._informers:
            self._start(informer.run(), f"informer-{informer.resource.plural}")
        self._start(self._recorder.run(), "events")
        self._start(self._pod_events.run(), "pod-events")
        for domain, outside in self._outsides.items():
            for probe in domain.probes(outside):
                self._start(probe(), f"{domain.name}-probe")
        self._start(self._health.run(), "health")
        self._start(self._fill(), "stores")
        self._start(self._lead(), "controllers")
        shell_task = self._start(self._deliver.run(self._kinds, self._shell_stop, self.stop), "shell")

        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait([stopping, *self._parts], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self._parts if task.done()]
        for task in ended:
            error = None if task.cancelled() else task.exception()
            message = "cancelled" if task.cancelled() else error or "it returned"
            group = error if isinstance(error, BaseExceptionGroup) else None  # its words do not name the cause
            logger.error("%s ended, so this process does: %s", task.get_name(), message, exc_info=group)

        logger.info("stopping")
        self._stop.set()
        self._health.ready = False
        await self._stop_acting()
        others = [stopping, *(task for task in self._parts if task is not shell_task)]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if web is not None:
            await web.cleanup()
        self._shell_stop.set()
        await asyncio.wait([shell_task], timeout=GRACE_SECONDS)
        shell_task.cancel()
        await asyncio.gather(shell_task, return_exceptions=True)
        return 1 if ended else 0

    # --- Parts ---

    async def _serve(self) -> Servers:
        routes = [route for domain, outside in self._outsides.items() for route in domain.routes(outside)]
        return await serve(self._options, self._health, routes)

    async def _fill(self) -> None:
        """Wait until every store is complete, then look for unreported deletions for ever."""
        await asyncio.gather(*(informer.synced.wait() for informer in self._informers))
        await shell.fill(self._api, self._kinds, self._options.namespace)
        self._on_complete()
        counts = ", ".join(f"{len(store)} {resource.plural}" for resource, store in self.cluster.stores.items())
        logger.info("every store is complete: %s", counts)
        self._health.ready = True
        await shell.audit(self._api, self._kinds, self._options.namespace)

    async def _lead(self) -> None:
        """Once every store is complete and this process leads: work. Ends when leadership is lost."""
        await self._health.wait_ready()
        if self._options.leader_elect:
            await self._election.acquire()
        work = [asyncio.create_task(self._act())]
        if self._options.leader_elect:
            work.append(asyncio.create_task(self._election.hold()))
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                # Reconciles in progress end.
                await asyncio.wait(work[:1])
            elif work[0].done():
                work[0].result()
        finally:
            for task in work:
                task.cancel()

    async def _act(self) -> None:
        """As the leader: work, from a view that holds all that the leader before has done.

        A watch may have been silent for a minute without anybody having noticed; a plan made from that would undo or do
        again what was done since. If nobody has led since before the first list began, there is nothing to catch up on.
        """
        if self._options.leader_elect and not self._election.undisturbed:
            await self.read_again()
        async with asyncio.TaskGroup() as group:
            for controller in self.controllers.values():
                group.create_task(controller.run())

    async def read_again(self) -> None:
        """Bring every store to what the API server holds now."""
        views = [informer.refresh for informer in self._informers]
        views += [partial(shell.refresh, self._api, kind, self._options.namespace) for kind in self._kinds]
        # To end instead while the API server is away would cost a lease's time and a start.
        await asyncio.gather(*(shell.patiently("the view of the leader before", view) for view in views))

    # --- Inside ---

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a part; none of them is meant to end, so the end of one ends the process."""
        task = asyncio.create_task(work, name=name)
        self._parts.append(task)
        return task

    def _pods(self) -> list[Pod]:
        """Pods about whose start somebody should be told."""
        return self.cluster.stores[PODS].all() if self.leading() and PODS in self.cluster.children else []

    def _wake_owner(self, pod: Pod) -> None:
        if (owner := self.cluster.owner(pod.metadata)) is not None:
            self.controllers[owner[0]].queue.add(owner[1])

    async def _stop_acting(self) -> None:
        """Let reconciles in progress end, then give the lease up."""
        await asyncio.gather(*(controller.stop(GRACE_SECONDS) for controller in self.controllers.values()))
        if self._options.leader_elect:
            await self._election.release()
