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
import signal
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any

import kopf

from aifactory import __version__
from aifactory.api import names
from aifactory.app import options as cli
from aifactory.app import shell, wiring
from aifactory.app.options import Options
from aifactory.app.probes import ServingBook, ServingProbe
from aifactory.app.progress import ProgressBook, ProgressEndpoint
from aifactory.app.review import ApiTokenReviewer
from aifactory.app.stores import connect, make_stores
from aifactory.app.web import Health, Servers, serve
from aifactory.engine.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS
from aifactory.kube import auth
from aifactory.kube.api import Api
from aifactory.kube.client import Client
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import KubeError, NotFound
from aifactory.kube.events import EventRecorder
from aifactory.kube.fence import Fenced
from aifactory.kube.lease import LeaderElection
from aifactory.kube.resources import Key

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Reconciles in progress get this long to end."""
START_SECONDS = 50.0
"""An API server that is away gets this long to come back; the chart's startup probe allows a little more."""
START_RETRY_SECONDS = 2.0


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
    except (auth.AuthError, KubeError) as error:
        print(f"aifactory-operator: {error}", file=sys.stderr)
        return 1


async def run(options: Options) -> int:
    """One process; returns the exit code."""
    provider = auth.SessionProvider(await auth.connect(), user_agent=f"aifactory-operator/{__version__}")
    api = Client(provider)
    try:
        gangs = await first_answer(api, options.namespace)
        return await KopfProcess(options, provider, api, gangs=gangs).run()
    finally:
        await _end_tasks()
        await api.close()
        await provider.close()


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


async def first_answer(api: Api, namespace: str | None) -> bool:
    """Wait until our kinds are served; returns whether gangs are.

    A start may fall into the very outage that ended the last run, and CRDs may come after the operator. kopf must not
    start before them: a kind that is not there then is never watched.

    Raises:
        KubeError: there is no answer, or one that waiting does not improve.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while True:
        try:
            for resource in (TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS):
                await api.list(resource, namespace=namespace, limit=1, metadata_only=True)
            return await wiring.gang_served(api, namespace)
        except NotFound as error:
            failure: KubeError = error
            words = f"{resource} is not served by this cluster: apply the CRDs"
        except KubeError as error:
            failure = error
            words = f"the API server does not answer as it should: {error}"
        if loop.time() > deadline or not (failure.retryable or isinstance(failure, NotFound)):
            raise failure
        logger.warning("%s; looking again", words)
        await asyncio.sleep(START_RETRY_SECONDS)


class Process:
    """Everything that runs in one process, but for what delivers the custom resources and serves HTTP.

    Args:
        options: how to run.
        api: the API server.
        gangs: the API server serves PodGroups.
        clock: the time.
        rng: source of jitter; a seeded one makes a simulated run repeatable.
    """

    def __init__(
        self, options: Options, api: Api, *, gangs: bool, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        clock, rng = clock or SystemClock(), rng or random.Random()
        self._options = options
        self._api = api
        self._clock = clock
        self._stores = make_stores()
        self._kinds = wiring.watched(self._stores)
        self._informers = wiring.make_informers(api, self._stores, options, gangs=gangs, clock=clock, rng=rng)
        self._election = LeaderElection(api, wiring.lease_config(options), clock=clock, rng=rng)
        acting = Fenced(api, lambda: self._election.leading) if options.leader_elect else api
        self._recorder = EventRecorder(acting, controller=names.MANAGED_BY, instance=options.identity, clock=clock)
        self._progress, self._serving = ProgressBook(), ServingBook()
        self._controllers = wiring.make_controllers(
            acting,
            self._stores,
            options,
            self._recorder,
            self._progress,
            self._serving,
            gangs=gangs,
            clock=clock,
            rng=rng,
        )
        connect(self._stores, self._controllers)
        self._stores.jobs.subscribe(
            lambda change: self._progress.forget(change.object.metadata.uid) if change.new is None else None
        )
        self._leading = asyncio.Event()
        self._stop = asyncio.Event()
        self._shell_stop = asyncio.Event()
        self._health = Health(clock)
        self._parts: list[asyncio.Task[Any]] = []

    async def serve(self) -> Servers | None:
        """Start serving HTTP."""
        return None

    async def shell(self) -> None:
        """Deliver the custom resources to the stores until `_shell_stop` is set."""
        raise NotImplementedError

    async def probe(self) -> None:
        """Bring in facts that live outside the API server, for ever."""
        raise NotImplementedError

    async def run(self) -> int:
        """Start the parts, wait for a signal or for the end of a part, and end in order; returns the exit code."""
        web = await self.serve()
        if self._options.leader_elect:
            await self._election.look()  # before anything is read: see `_act`
        for informer in self._informers:
            self._start(informer.run(), f"informer-{informer.resource.plural}")
        self._start(self._recorder.run(), "events")
        self._start(self.probe(), "probe")
        self._start(self._health.run(), "health")
        self._start(self._fill(), "stores")
        self._start(self._lead(), "controllers")
        shell_task = self._start(self.shell(), "kopf")

        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait([stopping, *self._parts], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self._parts if task.done()]
        for task in ended:
            error = None if task.cancelled() else task.exception()
            words = "cancelled" if task.cancelled() else error or "it returned"
            group = error if isinstance(error, BaseExceptionGroup) else None  # its words do not name the cause
            logger.error("%s ended, so this process does: %s", task.get_name(), words, exc_info=group)

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

    async def _fill(self) -> None:
        """Wait until every store is complete, then look for unreported deletions for ever."""
        await asyncio.gather(*(informer.synced.wait() for informer in self._informers))
        await shell.fill(self._api, self._kinds, self._options.namespace)
        self.filled()
        logger.info("every store is complete: %d jobs, %d pods", len(self._stores.jobs), len(self._stores.pods))
        self._health.ready = True
        await shell.audit(self._api, self._kinds, self._options.namespace)

    def filled(self) -> None:
        """Every store is complete for the first time."""

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
            else:
                # Another replica may lead from now on: not one more write.
                self._leading.clear()
                if work[0].done():
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
            namespace = self._options.namespace
            views = [informer.refresh for informer in self._informers]
            views += [partial(shell.refresh, self._api, kind, namespace) for kind in self._kinds]
            # To end instead while the API server is away would cost a lease's time and a start.
            await asyncio.gather(*(shell.patiently("the view of the leader before", view) for view in views))
        self._leading.set()
        async with asyncio.TaskGroup() as group:
            for controller in self._controllers.all():
                group.create_task(controller.run())

    # --- Inside ---

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a part; none of them is meant to end, so the end of one ends the process."""
        task = asyncio.create_task(work, name=name)
        self._parts.append(task)
        return task

    async def _stop_acting(self) -> None:
        """Let reconciles in progress end, then give the lease up."""
        await asyncio.gather(*(controller.stop(GRACE_SECONDS) for controller in self._controllers.all()))
        self._leading.clear()
        if self._options.leader_elect:
            await self._election.release()


class KopfProcess(Process):
    """The process as it runs: kopf delivers the custom resources, aiohttp serves."""

    def __init__(self, options: Options, provider: auth.SessionProvider, api: Client, *, gangs: bool) -> None:
        super().__init__(options, api, gangs=gangs)
        self._provider = provider

    async def serve(self) -> Servers:
        return await serve(self._options, self._health, self._endpoint())

    def filled(self) -> None:
        # What is here now stays: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()

    async def shell(self) -> None:
        connection = self._provider.connection

        def login() -> kopf.AiohttpSession:
            return kopf.AiohttpSession(
                server=connection.server,
                default_namespace=connection.namespace,
                aiohttp_session=self._provider.session(shell.list_nothing(self._kinds), shell.refused_is_away),
            )

        started = asyncio.Event()
        namespace = self._options.namespace
        tasks = await kopf.spawn_tasks(
            registry=shell.registry(self._kinds, login),
            settings=shell.settings(silence=self._options.silence_seconds),
            # kopf would make one from the user's name, which a container's user need not have.
            identity=self._options.identity,  # type: ignore[arg-type] # a private NewType of str
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace is not None else [],
            stop_flag=self._shell_stop,
            ready_flag=started,
        )
        signals = asyncio.create_task(self._take_signals(started), name="signals")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            signals.cancel()
            self._shell_stop.set()
            # When it ends, kopf waits five seconds for all tasks but these and cancels them: ours are not its own.
            await kopf.run_tasks(tasks, ignored=asyncio.all_tasks())

    async def _take_signals(self, started: asyncio.Event) -> None:
        """Replace kopf's signal handlers by ours once they are set: kopf must not end first."""
        await started.wait()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def probe(self) -> None:
        await ServingProbe(
            book=self._serving,
            pods=lambda: wiring.serving_pods(self._stores) if self._leading.is_set() else [],
            wake=lambda pool: self._controllers.pools.queue.add(Key(*pool)),
            monotonic=self._clock.monotonic,
        ).run()

    def _endpoint(self) -> ProgressEndpoint:
        return ProgressEndpoint(
            book=self._progress,
            review=ApiTokenReviewer(self._api),
            find_pod=lambda reporter: wiring.reporting_pod(self._stores, reporter),
            wake=lambda namespace, job, after: self._controllers.jobs.queue.add_after(Key(namespace, job), after),
            leading=self._leading.is_set,
            leader_address=lambda: self._election.leader_address,
            now=self._clock.now,
            monotonic=self._clock.monotonic,
        )
