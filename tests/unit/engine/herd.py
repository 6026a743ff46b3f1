"""Herds (`tests/support/herd.py`) on a server in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.kube.api import Api
from aifactory.kube.backoff import Backoff
from aifactory.kube.clock import Clock
from aifactory.kube.events import EventRecorder
from aifactory.kube.informer import Informer
from aifactory.kube.objects import Metadata, Pod, Struct
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import PODS, Key
from aifactory.kube.store import Change, Store
from tests.support.faketime import FakeClock
from tests.support.herd import HERDS, Herd, HerdStatus, RestlessHerds
from tests.unit.memory_api import MemoryApi

__all__ = ["HERDS", "Farm", "herd_informers"]


class HerdObject(Struct, frozen=True, gc=False):
    """A herd, whose spec and status are left as they stand in JSON."""

    metadata: Metadata
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: dict[str, Any] = msgspec.field(default_factory=dict)


def herd_informers(api: Api, cluster: Cluster, **options: Any) -> tuple[Informer[Any], ...]:
    """What keeps a cluster of herds true, where no kopf delivers them."""
    parse, herds = custom.parser(Herd), cluster.stored(HERDS)
    raw: Store[HerdObject] = Store()

    def relay(change: Change[HerdObject]) -> None:
        if change.new is not None:
            herds.put(parse(msgspec.to_builtins(change.new)), background=change.background)
        else:
            meta = change.object.metadata
            herds.delete(meta.key, meta.uid, meta.resource_version)

    raw.subscribe(relay)
    return (
        Informer(api, HERDS, HerdObject, raw, **options),
        Informer(api, PODS, Pod, cluster.stores[PODS], **options),
    )


class Farm:
    """A controller of herds with its informers, on a server in memory."""

    def __init__(self, api: MemoryApi, *, seed: int = 0, workers: int = 4, status_delay: float = 1.0) -> None:
        clock: Clock = FakeClock()
        self.api = api
        self.kind = RestlessHerds()
        self.cluster = Cluster([self.kind])
        self.herds, self.pods = self.cluster.stored(HERDS), self.cluster.stores[PODS]
        self.recorder = EventRecorder(api, controller="test.dev/herds", instance="test", clock=clock)
        rng = random.Random(seed)
        self.executor = Executor(api, self.cluster.stores)
        self.controller = Controller(
            self.kind,
            self.cluster,
            self.executor,
            recorder=self.recorder,
            queue=WorkQueue("herd", backoff=Backoff(base=0.005, limit=60.0), rng=rng),
            workers=workers,
            status_delay=status_delay,
            clock=clock,
        )
        self.cluster.connect({HERDS: self.controller.queue.add})
        self.informers = herd_informers(api, self.cluster, rng=rng, clock=clock)

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.api.objects[HERDS][Key("ns", name)].get("status", {})
        return status

    def wanted(self) -> tuple[dict[str, Any], set[str]]:
        """The statuses and pods there should be, from the herds as they are."""
        herds = self.api.objects[HERDS]
        names = {f"{key.name}-{number}" for key, herd in herds.items() for number in range(herd["spec"]["size"])}
        statuses = {
            key.name: HerdStatus(
                observed_generation=herd["metadata"]["generation"], pods=herd["spec"]["size"], full=True
            ).dump()
            for key, herd in herds.items()
        }
        return statuses, names

    def actual(self) -> tuple[dict[str, Any], set[str]]:
        herds, pods = self.api.objects[HERDS], self.api.objects[PODS]
        return {key.name: herd.get("status") for key, herd in herds.items()}, {key.name for key in pods}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Farm]:
        tasks = [asyncio.create_task(informer.run()) for informer in self.informers]
        tasks.append(asyncio.create_task(self.recorder.run()))
        for informer in self.informers:
            await informer.synced.wait()
        tasks.append(asyncio.create_task(self.controller.run()))
        try:
            yield self
            assert not any(task.done() for task in tasks), tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
