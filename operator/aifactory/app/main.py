"""One operator process from start to end. Read `Process.run` first.

Order matters at both ends. Start: informers and kopf fill the stores, and only when every store is complete and this
process leads do workers start; a plan made from half a view would be wrong. End: workers finish what they are doing,
the lease is given up so that a successor need not wait, and kopf ends last. A process that loses one of its parts
exits; its replacement starts clean. One that loses its lease stops acting and takes part in the election again, with
its stores kept true meanwhile: an API server that was too slow for a lease had better not be listed anew.
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
from aifactory.app.start import end_tasks, first_answer, freeze_garbage, unless
from aifactory.app.web import Health, Servers, serve
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Domain, Outside
from aifactory.engine.objectmetrics import ObjectMetrics
from aifactory.engine.podevents import PodEvents
from aifactory.kube import auth
from aifactory.kube.api import Api
from aifactory.kube.claims import Claims
from aifactory.kube.client import Client
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import KubeError
from aifactory.kube.events import EventRecorder
from aifactory.kube.fence import Fenced
from aifactory.kube.lease import LeaderElection
from aifactory.kube.objects import Pod
from aifactory.kube.resources import PODS, Resource
from aifactory.kube.retry import Retrying

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Reconciles in progress get this long to end."""
STALE_SECONDS = 180.0
"""A watch that tells nothing for so long, where a bookmark comes every minute, tells nothing any more."""
RESYNC_SECONDS = 3600.0
"""Each store is read again once in so long."""


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
    stop = asyncio.Event()
    shell.take_signals(stop.set)
    connection, agent = await auth.connect(), f"aifactory-operator/{__version__}"
    provider, lease_provider = (auth.SessionProvider(connection, user_agent=agent) for _ in range(2))
    api = Client(provider)
    # A connection of its own: what makes others wait or hang must not cost the lease.
    lease_api = Client(lease_provider, timeout=options.lease_seconds)
    try:
        made = kinds.make(options, domains)
        served = await unless(stop, first_answer(api, made, options.namespace))
        if served is None:
            return 0
        deliver = shell.Kopf(provider, options)
        process = Process(
            options,
            api,
            made,
            served,
            deliver,
            lease_api=lease_api,
            serve_http=True,
            on_complete=freeze_garbage,
            stop=stop,
        )
        return await process.run()
    finally:
        await end_tasks()
        for client in (api, lease_api):
            await client.close()
        for source in (provider, lease_provider):
            await source.close()


class Process:
    """Everything that runs in one process.

    Args:
        options: how to run.
        api: the API server; each call is sent once.
        domains: what is reconciled.
        served: the optional resources that the API server serves.
        deliver: brings the custom resources into the stores.
        lease_api: the API server over a connection of the lease's own; by default the same.
        serve_http: open the ports.
        on_complete: called once when every store is complete for the first time.
        health: how the process judges itself.
        clock: the time.
        rng: source of jitter; a seeded one makes a simulated run repeatable.
        stop: set to end in order.
    """

    def __init__(
        self,
        options: Options,
        api: Api,
        domains: Sequence[Domain[Any, Any]],
        served: Collection[Resource],
        deliver: shell.Shell,
        *,
        lease_api: Api | None = None,
        serve_http: bool = False,
        on_complete: Callable[[], None] = lambda: None,
        health: Health | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        clock, rng = clock or SystemClock(), rng or random.Random()
        self._options = options
        self._api = patient = Retrying(api, rng=rng)
        self._deliver = deliver
        self._serve_http = serve_http
        self._on_complete = on_complete
        self.cluster = Cluster(domains, served, options.namespace)
        self._kinds = wiring.watched(self.cluster)
        self._informers = wiring.make_informers(patient, self.cluster, options, clock=clock, rng=rng)
        lease, config = Retrying(lease_api or api, rng=rng), wiring.lease_config(options)
        self._claims = Claims(lease, config, clock=clock)
        self._election = LeaderElection(
            lease, config, rival=self._claims.rival, waits=self._tell_waiting, clock=clock, rng=rng
        )
        # The fence is inside: whether we lead is asked before each try, not only before the first.
        acting = Fenced(api, self.leading)
        told = Retrying(acting, rng=rng)
        recorder = partial(EventRecorder, controller=names.MANAGED_BY, instance=options.identity, clock=clock)
        self._recorder = recorder(told)
        self._own_recorder = recorder(patient)
        """For Events about this process itself, which may not lead."""
        self.controllers = wiring.make_controllers(acting, self.cluster, options, self._recorder, clock=clock, rng=rng)
        self._pod_events = PodEvents(patient, pods=self._pods, wake=self._wake_owner, clock=clock)
        self.cluster.explain = self._pod_events.of
        self.cluster.eviction = self._pod_events.eviction
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
        self._object_metrics = ObjectMetrics(self.cluster, self.leading, clock)
        self._stop = stop or asyncio.Event()
        self._shell_stop = asyncio.Event()
        self._health = health or Health(clock)
        self._health.stale = self._stale
        self._health.waits_for = lambda: self._election.waits_for
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
        self._start(self._own_recorder.run(), "own-events")
        self._start(self._pod_events.run(), "pod-events")
        for domain, outside in self._outsides.items():
            for probe in domain.probes(outside):
                self._start(probe(), f"{domain.name}-probe")
        self._start(self._health.run(), "health")
        self._start(self._fill(), "stores")
        self._start(self._lead(), "controllers")
        self._start(self._resync(), "resync")
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
        return await serve(self._options, self._health, routes, self._object_metrics)

    async def _fill(self) -> None:
        """Wait until every store is complete, then look for unreported deletions for ever."""
        await asyncio.gather(*(informer.synced.wait() for informer in self._informers))
        await shell.fill(self._api, self._kinds, self._options.namespace)
        self._on_complete()
        counts = ", ".join(f"{len(store)} {resource.plural}" for resource, store in self.cluster.stores.items())
        logger.info("every store is complete: %s", counts)
        for kind in self._kinds:
            kind.heard.now()
        self._health.ready = True
        await shell.audit(self._api, self._kinds, self._options.namespace)

    async def _lead(self) -> None:
        """Once every store is complete: work whenever this process leads, for ever. Returns when a controller does."""
        await self._health.wait_ready()
        if not self._options.leader_elect:
            return await self._act()
        led_before = False
        while True:
            await self._election.acquire()
            acting = asyncio.create_task(self._act(led_before), name="acting")
            holding = asyncio.create_task(self._election.hold(), name="lease")
            try:
                await asyncio.wait([acting, holding], return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    await asyncio.wait([acting])  # reconciles in progress end
                if acting.done():
                    return acting.result()
            finally:
                for task in (acting, holding):
                    task.cancel()
                # What was under way has been sent or never will be: whoever leads next has it to himself.
                await asyncio.gather(acting, holding, return_exceptions=True)
            led_before = True

    async def _act(self, led_before: bool = False) -> None:
        """As the leader: work, from a view that holds all that the leader before has done.

        A watch may have been silent for a minute without anybody having noticed; a plan made from that would undo or do
        again what was done since. If nobody has led since before the first list began, there is nothing to catch up on.
        """
        undisturbed = not led_before and self._election.undisturbed and self._claims.none
        if self._options.leader_elect and not undisturbed:
            await self.read_again()
        if led_before:
            for controller in self.controllers.values():
                controller.start_over()
        async with asyncio.TaskGroup() as group:
            for controller in self.controllers.values():
                group.create_task(controller.run())

    async def _resync(self) -> None:
        """Read each store again about once an hour, one after another, should a watch have left something out."""
        await self._health.wait_ready()
        while True:
            for name, view in self._views().items():
                await asyncio.sleep(RESYNC_SECONDS / len(self._views()))
                try:
                    await view()
                except KubeError as error:
                    logger.warning("%s could not be read again, it is in an hour: %s", name, error)

    async def read_again(self) -> None:
        """Bring every store to what the API server holds now."""
        # To end instead while the API server is away would cost a lease's time and a start.
        views = self._views().values()
        await asyncio.gather(*(shell.retried("the view of the leader before", view) for view in views))

    # --- Inside ---

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a part; none of them is meant to end, so the end of one ends the process."""
        task = asyncio.create_task(work, name=name)
        self._parts.append(task)
        return task

    def _views(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What brings each store to what the API server holds now, by the resource's name."""
        views: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        for informer in self._informers:
            views[informer.resource.plural] = informer.refresh
        for kind in self._kinds:
            views[kind.resource.plural] = partial(shell.refresh, self._api, kind, self._options.namespace)
        return views

    def _stale(self) -> str:
        """Which watches have told nothing, not even that there is nothing to tell, for longer than two are silent."""
        limit = max(STALE_SECONDS, 2 * self._options.silence_seconds)
        silent = {informer.resource.plural: informer.silent_seconds() for informer in self._informers}
        silent |= {kind.resource.plural: kind.heard.silent_seconds() for kind in self._kinds}
        late = (f"{name} for {seconds:.0f} s" for name, seconds in sorted(silent.items()) if seconds > limit)
        message = ", ".join(late)
        return f"the watch is silent: {message}" if message else ""

    def _tell_waiting(self, message: str) -> None:
        """Another release acts on what this one is to act on: say so where somebody would look."""
        logger.warning("%s", message)
        if (pod := self._options.pod) is not None:
            self._own_recorder.record(pod, type_="Warning", reason="OtherRelease", message=message, action="Wait")

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
