"""The operator's own process, on a simulated connection.

Everything is the real thing but the two parts that leave the process: kopf is replaced by a list and watch that behave
as kopf's do (a deletion during a broken watch is not reported), the probe of serving pods by a look at the world.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, cast

import msgspec

from aifactory.app import domains, shell, watching
from aifactory.app.domains import DOMAINS
from aifactory.app.main import Process
from aifactory.app.options import Options
from aifactory.app.watching import Watched
from aifactory.app.web import Health
from aifactory.engine.domain import Domain, Outside
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.errors import Gone, KubeError
from aifactory.kube.informer import SILENCE_SECONDS
from aifactory.kube.resources import Key, Resource
from aifactory.kube.retry import Retrying
from aifactory.serving.demand import Gauge, Look
from aifactory.serving.domain import Serving
from aifactory.serving.holding import Held
from aifactory.serving.measure import Analysed, Measurement, PoolKey
from aifactory.serving.probe import ServingPod
from aifactory.serving.state import Report
from aifactory.training.domain import Training
from aifactory.training.reports import CheckpointBody, ReportBody
from tests.sim.connection import Connection
from tests.sim.stoppable import StoppableLoop
from tests.support.faketime import FakeClock

PROBE_SECONDS = 10.0
FOLLOW_SECONDS = 1.0
FRESH_SECONDS = 25.0
"""What a pod has told of what it has to do counts for so long."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def options(identity: str, *, elect: bool, lease_seconds: float = 60.0) -> Options:
    """How the simulated process is started."""
    return Options(
        identity=identity,
        address="operator",
        workers=4,
        lease_seconds=lease_seconds,
        leader_elect=elect,
    )


class _Quiet(Health):
    async def run(self) -> None:
        """Nothing: made-up time is never late."""
        await asyncio.Future()


class SimServing(Serving):
    """InferencePool, with a probe that looks at the world instead of asking over HTTP.

    `load_error`, `report`, `counted`, `in_flight`, `answered`, `waiting`, `on_news` are set by the process: what a pod
    would say, and whom to tell that it is new.
    """

    load_error: Callable[[str], str] = staticmethod(lambda _: "")
    report: Callable[[str], Report | None] = staticmethod(lambda _: None)
    counted: Callable[[Analysed], Measurement] = staticmethod(lambda analysed: analysed.window)
    in_flight: Callable[[str], float | None] = staticmethod(lambda _: None)
    answered: Callable[[PoolKey], int] = staticmethod(lambda _: 0)
    waiting: Callable[[str], int | None] = staticmethod(lambda _: None)
    on_news: Callable[[Key], None] = staticmethod(lambda _: None)

    def _weigh(self, pods: Sequence[ServingPod], scaled: Collection[PoolKey], now: float) -> Iterable[Key]:
        """Pools whose pods have something else to do than before."""
        self._gauges = {pool: self._gauges.get(pool) or Gauge() for pool in scaled}
        asked = {pod.pool for pod in pods} & self._gauges.keys()
        self.book.retain_demand(asked)
        for pool in asked:
            ready = [pod.uid for pod in pods if pod.ready and pod.live and pod.pool == pool]
            told = {uid: count for uid in ready if (count := self.in_flight(uid)) is not None}
            for uid, count in told.items():
                self._gauges[pool].see(uid, Look(now, 0.0, present=count, requests=self.answered(pool)))
            demand = self._gauges[pool].demand(now, ready, len(ready) - len(told), FRESH_SECONDS)
            if self.book.set_demand(pool, demand):
                yield Key(*pool)

    _gauges: Mapping[PoolKey, Gauge] = MappingProxyType({})

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        async def look() -> None:
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                pods = self.asked_pods(outside.cluster) if outside.leading() else []
                self.book.retain((pod.uid for pod in pods), (pod.pool for pod in pods))
                for pod in pods:
                    if not pod.ready and self.book.set_error(pod.uid, self.load_error(pod.uid)):
                        self.on_news(Key(*pod.pool))
                        outside.wake(Key(*pod.pool), 0.0)
                for pod in pods:
                    said = self.report(pod.uid) if pod.ready and pod.on_demand else None
                    if said is not None and self.book.set_report(pod.uid, said):
                        self.on_news(Key(*pod.pool))
                        outside.wake(Key(*pod.pool), 0.0)
                scaled = self.scaled_pools(outside.cluster) if outside.leading() else set()
                for key in self._weigh(pods, scaled, outside.clock.monotonic()):
                    self.on_news(key)
                    outside.wake(key, 0.0)
                for each in self.analysed_pools(outside.cluster) if outside.leading() else []:
                    if (counted := self.counted(each)) != each.window:
                        self.book.set_measured(each.pool, counted)
                        self.on_news(Key(*each.pool))
                        outside.wake(Key(*each.pool), 0.0)

        async def follow() -> None:
            while True:
                await asyncio.sleep(FOLLOW_SECONDS)
                for pod in self.swapping_pods(outside.cluster) if outside.leading() else []:
                    said = self.report(pod.uid)
                    if self.book.set_unanswered(pod.uid) if said is None else self.book.set_report(pod.uid, said):
                        self.on_news(Key(*pod.pool))
                        outside.wake(Key(*pod.pool), 0.0)

        async def listen() -> None:
            while True:
                await asyncio.sleep(FOLLOW_SECONDS)
                proxies = self.proxies_of_sleepers(outside.cluster) if outside.leading() else []
                self.wakeups.retain({proxy.pool for proxy in proxies})
                for pool in {proxy.pool for proxy in proxies}:
                    told = [self.waiting(proxy.uid) for proxy in proxies if proxy.pool == pool]
                    if self.wakeups.set_held(pool, Held(sum(count or 0 for count in told), told.count(None))):
                        self.on_news(Key(*pool))
                        outside.wake(Key(*pool), 0.0)

        return (look, follow, listen)


class SimTraining(Training):
    """TrainingJob; nobody asks over HTTP how far an input is."""

    def probes(self, outside: Outside) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        return ()


_REPLACED: Mapping[type[Domain[Any, Any]], type[Domain[Any, Any]]] = {Serving: SimServing, Training: SimTraining}
SIM_DOMAINS: tuple[type[Domain[Any, Any]], ...] = tuple(_REPLACED.get(kind, kind) for kind in DOMAINS)


class LikeKopf:
    """Delivers the custom resources as kopf does."""

    def __init__(self, api: Api, rng: random.Random) -> None:
        self._api = api
        self._rng = rng

    async def run(self, kinds: Collection[Watched], stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
        tasks = [asyncio.create_task(watch_like_kopf(self._api, kind, self._rng)) for kind in kinds]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()


class SimProcess:
    """One run of the operator: the real `Process` on a simulated connection."""

    def __init__(
        self,
        connection: Connection,
        rng: random.Random,
        load_error: Callable[[str], str],
        report: Callable[[str], Report | None],
        counted: Callable[[Analysed], Measurement],
        in_flight: Callable[[str], float | None],
        answered: Callable[[PoolKey], int],
        waiting: Callable[[str], int | None],
        on_news: Callable[[Key], None],
        *,
        elect: bool,
        served: Collection[Resource],
        lease_seconds: float,
        kinds: Sequence[type[Domain[Any, Any]]] = SIM_DOMAINS,
    ) -> None:
        clock: Clock = FakeClock()
        chosen = options(connection.actor, elect=elect, lease_seconds=lease_seconds)
        made = domains.make(chosen, kinds)
        self.connection = connection
        self.process = Process(
            chosen,
            connection,
            made,
            served,
            LikeKopf(Retrying(connection, rng=rng), rng),
            health=_Quiet(clock),
            clock=clock,
            rng=rng,
        )
        self._clock = clock
        self._training = next((domain for domain in made if isinstance(domain, Training)), None)
        for domain in made:
            if isinstance(domain, SimServing):
                domain.load_error, domain.report, domain.on_news = load_error, report, on_news
                domain.counted, domain.in_flight = counted, in_flight
                domain.answered, domain.waiting = answered, waiting
        self.loop = StoppableLoop(connection.cluster.loop)
        self.started = connection.cluster.loop.now
        self.task: asyncio.Task[int] = self.loop.create_task(self.process.run(), name=connection.actor)

    @property
    def leading(self) -> bool:
        return not self.connection.dead and self.loop.within(self.process.leading)

    @property
    def ended(self) -> bool:
        return self.task.done()

    def kill(self) -> None:
        """SIGKILL: not one more call, nothing is tidied up."""
        self.connection.dead = True
        self.loop.continue_()  # to its end: a stopped process can be killed
        self.task.cancel()
        self.process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.stop()

    def report(self, job_uid: str, namespace: str, job: str, attempt: int, step: int) -> None:
        """A report of a training program arrives."""
        if self._training is None or not self.leading or self.loop.stopped:
            return
        body = ReportBody(step=step, total_steps=1000, metrics={"loss": 2.5}, checkpoint=CheckpointBody(step=step // 2))
        book, clock = self._training.book, self._clock
        if book.record(job_uid, attempt, body, self.loop.within(clock.now)):
            queue = self.process.controllers[self._training.resource].queue
            after = self.loop.within(lambda: book.wake_after(job_uid, clock.monotonic()))
            self.loop.within(lambda: queue.add_after(Key(namespace, job), after))


async def watch_like_kopf(api: Api, kind: Watched, rng: random.Random) -> None:
    """List nothing (`watching.list_nothing`) and watch one kind for ever."""
    while True:
        try:
            listed = _decode(await api.list(kind.resource, field_selector=watching.NOTHING))
            kind.listed.set()
            version = listed["metadata"]["resourceVersion"]
            while True:
                version = await _follow(api, kind, version)
        except Gone:
            continue
        except KubeError:
            await asyncio.sleep(1.0 + rng.random())


async def _follow(api: Api, kind: Watched, version: str) -> str:
    """One watch to its end; returns the last version seen."""
    stream = api.watch(kind.resource, resource_version=version, timeout_seconds=600)
    async with aclosing(cast("Any", stream)) as batches:
        while (batch := await _next(batches)) is not None:
            for line in batch:
                event = _decode(line)
                if event["type"] == "ERROR":
                    raise Gone(410, "Expired", "too old")
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    shell.handle(kind, event["type"], event["object"])
    return version


async def _next(batches: Any) -> Sequence[bytes] | None:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return cast("Sequence[bytes] | None", await anext(batches, None))
    except TimeoutError:
        return None


def moment(seconds: float) -> datetime:
    """A time for tests that plan without a process."""
    return datetime.fromtimestamp(seconds, UTC)
