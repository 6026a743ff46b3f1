"""The operator's own process, on a simulated connection.

Everything is the real thing but the two parts that leave the process: kopf is replaced by a list and watch that behave
as kopf's do (a deletion during a broken watch is not reported), the probe of serving pods by a look at the world.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from aifactory.app import shell, wiring
from aifactory.app.main import Process
from aifactory.app.options import Options
from aifactory.app.progress import CheckpointBody, ReportBody
from aifactory.app.web import Health
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock
from aifactory.kube.errors import Gone, KubeError
from aifactory.kube.informer import SILENCE_SECONDS
from aifactory.kube.resources import Key
from tests.sim.connection import Connection
from tests.sim.stoppable import StoppableLoop
from tests.support.faketime import FakeClock

PROBE_SECONDS = 10.0
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def options(identity: str, *, elect: bool, lease_seconds: float = 60.0) -> Options:
    """How the simulated process is started."""
    return Options(
        agent_image="aifactory/agent:1",
        server_image="aifactory/server:1",
        progress_url="http://operator:8082",
        namespace=None,
        workers=4,
        model_claim_size="10Gi",
        model_claim_storage_class=None,
        lease_namespace="system",
        lease_seconds=lease_seconds,
        leader_elect=elect,
        identity=identity,
        address="operator",
        http_port=8080,
        progress_port=8082,
        log_level="INFO",
    )


class _Quiet(Health):
    async def run(self) -> None:
        """Nothing: made-up time is never late."""
        await asyncio.Future()


class SimProcess(Process):
    """One run of the operator."""

    def __init__(
        self,
        connection: Connection,
        rng: random.Random,
        load_error: Callable[[str], str],
        on_news: Callable[[Key], None],
        *,
        elect: bool,
        gangs: bool,
        lease_seconds: float,
    ) -> None:
        clock: Clock = FakeClock()
        chosen = options(connection.actor, elect=elect, lease_seconds=lease_seconds)
        super().__init__(chosen, connection, gangs=gangs, clock=clock, rng=rng)
        self.connection = connection
        self._rng = rng
        self._load_error = load_error
        self._on_news = on_news
        self._health = _Quiet(clock)
        self.loop = StoppableLoop(connection.cluster.loop)
        self.started = connection.cluster.loop.now
        self.task: asyncio.Task[int] = self.loop.create_task(self.run(), name=connection.actor)

    @property
    def leading(self) -> bool:
        return self._leading.is_set() and not self.connection.dead

    @property
    def ended(self) -> bool:
        return self.task.done()

    def kill(self) -> None:
        """SIGKILL: not one more call, nothing is tidied up."""
        self.connection.dead = True
        self.loop.continue_()  # to its end: a stopped process can be killed
        self.task.cancel()
        self._stop.set()
        for part in self._parts:
            part.cancel()
        for controller in self._controllers.all():
            controller.queue.shut_down()

    def terminate(self) -> None:
        """SIGTERM."""
        self._stop.set()

    def report(self, job_uid: str, namespace: str, job: str, attempt: int, step: int) -> None:
        """A report of a training program arrives."""
        if not self.leading or self.loop.stopped:
            return
        body = ReportBody(step=step, total_steps=1000, metrics={"loss": 2.5}, checkpoint=CheckpointBody(step=step // 2))
        if self._progress.record(job_uid, attempt, body, self.loop.within(self._clock.now)):
            self.loop.within(lambda: self._controllers.jobs.queue.add(Key(namespace, job)))

    # --- Parts that are replaced ---

    async def shell(self) -> None:
        tasks = [asyncio.create_task(watch_like_kopf(self._api, kind, self._rng)) for kind in self._kinds]
        try:
            await self._shell_stop.wait()
        finally:
            for task in tasks:
                task.cancel()

    async def probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            pods = wiring.serving_pods(self._stores) if self.leading else []
            self._serving.retain((pod.uid for pod in pods), (pod.pool for pod in pods))
            for pod in pods:
                if not pod.ready and self._serving.set_error(pod.uid, self._load_error(pod.uid)):
                    self._on_news(Key(*pod.pool))
                    self._controllers.pools.queue.add(Key(*pod.pool))


async def watch_like_kopf(api: Api, kind: shell.Watched, rng: random.Random) -> None:
    """List and watch one kind for ever."""
    while True:
        try:
            listed = _decode(await api.list(kind.resource))
            kind.listed.set()
            for body in listed["items"]:
                shell.take(kind, None, body)
            version = listed["metadata"]["resourceVersion"]
            while True:
                version = await _follow(api, kind, version)
        except Gone:
            continue
        except KubeError:
            await asyncio.sleep(1.0 + rng.random())


async def _follow(api: Api, kind: shell.Watched, version: str) -> str:
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
                    shell.take(kind, event["type"], event["object"])
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
