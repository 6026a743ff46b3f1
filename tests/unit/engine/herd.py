"""A kind that exists only in these tests: a herd wants `spec.size` pods and says how many there are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.engine.plan import Create, Delete, Event, Plan, Subject, WriteError
from aifactory.engine.wakeups import wake_owner
from aifactory.kube.events import EventRecorder
from aifactory.kube.informer import Informer
from aifactory.kube.objects import Metadata, Pod, Struct, decoder
from aifactory.kube.queue import Backoff, WorkQueue
from aifactory.kube.resources import PODS, Key, Resource
from aifactory.kube.store import Store, by_controller
from tests.support.faketime import FakeClock
from tests.unit.memory_api import MemoryApi

HERDS = Resource("test.dev", "v1", "herds", "Herd")


class CustomObject(Struct, frozen=True, gc=False):
    """A herd, whose spec and status are left as they stand in JSON."""

    metadata: Metadata
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What one plan is made from."""

    herd: CustomObject
    pods: tuple[Pod, ...]


@dataclass
class HerdKind:
    """Plans are made from names only, so a stale view makes redundant calls at worst."""

    herds: Store[CustomObject]
    pods: Store[Pod]
    name: str = "herd"
    resource: Resource = HERDS
    urgent: bool = False
    tells: bool = False
    """Whether a full herd is worth an Event."""
    requeue_after: float | None = None
    poisoned: set[str] = field(default_factory=set)
    plans: list[Key] = field(default_factory=list)

    def observe(self, key: Key) -> Seen | None:
        herd = self.herds.get(*key)
        if herd is None:
            return None
        return Seen(herd, tuple(self.pods.by("owner", herd.metadata.uid)))

    def subject(self, observed: Seen) -> Subject:
        metadata = observed.herd.metadata
        return Subject(metadata.key, metadata.uid, metadata.resource_version, observed.herd.status)

    def plan(self, observed: Seen, now: datetime) -> Plan:
        metadata = observed.herd.metadata
        self.plans.append(metadata.key)
        if metadata.name in self.poisoned:
            raise RuntimeError(f"{metadata.name} is poisoned")
        size = observed.herd.spec.get("size", 0)
        wanted = {f"{metadata.name}-{number}" for number in range(size)}
        found = {pod.metadata.name: pod for pod in observed.pods}
        creates = tuple(Create(PODS, self.pod(observed, name)) for name in sorted(wanted - found.keys()))
        deletes = tuple(
            Delete(PODS, metadata.namespace, name, found[name].metadata.uid)
            for name in sorted(found.keys() - wanted)
            if found[name].metadata.deletion_timestamp is None
        )
        full = found.keys() == wanted
        events = (Event("Normal", "Full", f"all {size} pods are there"),) if full and self.tells else ()
        status = {"observedGeneration": metadata.generation, "pods": len(found), "full": full}
        return Plan((*creates, *deletes), status, self.urgent, self.requeue_after, events)

    def on_error(self, observed: Seen, errors: Sequence[WriteError], now: datetime) -> Plan:
        status = {"observedGeneration": observed.herd.metadata.generation, "error": errors[0].message}
        return Plan(status=status, urgent=True)

    @staticmethod
    def pod(observed: Seen, name: str) -> dict[str, Any]:
        metadata = observed.herd.metadata
        owner = {
            "apiVersion": HERDS.api_version,
            "kind": HERDS.kind,
            "name": metadata.name,
            "uid": metadata.uid,
            "controller": True,
        }
        return {"metadata": {"name": name, "namespace": metadata.namespace, "ownerReferences": [owner]}}


class Farm:
    """A controller of herds with its informers, on a server in memory."""

    def __init__(self, api: MemoryApi, *, seed: int = 0, workers: int = 4, status_delay: float = 1.0) -> None:
        clock = FakeClock()
        self.api = api
        self.herds: Store[CustomObject] = Store(decoder(CustomObject))
        self.pods: Store[Pod] = Store(decoder(Pod), indexes={"owner": by_controller})
        self.kind = HerdKind(self.herds, self.pods)
        self.recorder = EventRecorder(api, controller="test.dev/herds", instance="test", clock=clock)
        rng = random.Random(seed)
        self.executor = Executor(api, {HERDS: self.herds, PODS: self.pods})
        self.controller = Controller(
            self.kind,
            self.executor,
            recorder=self.recorder,
            queue=WorkQueue("herd", backoff=Backoff(limit=60.0), rng=rng),
            workers=workers,
            status_delay=status_delay,
            clock=clock,
        )
        self.herds.subscribe(self.controller.wake)
        self.pods.subscribe(wake_owner(self.controller.queue, HERDS.kind, HERDS.group))
        self.informers: tuple[Informer[Any], ...] = (
            Informer(api, HERDS, CustomObject, self.herds, rng=rng, clock=clock),
            Informer(api, PODS, Pod, self.pods, rng=rng, clock=clock),
        )

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.api.objects[HERDS][Key("ns", name)].get("status", {})
        return status

    def wanted(self) -> tuple[dict[str, Any], set[str]]:
        """The statuses and pods there should be, from the herds as they are."""
        herds = self.api.objects[HERDS]
        names = {f"{key.name}-{number}" for key, herd in herds.items() for number in range(herd["spec"]["size"])}
        statuses = {
            key.name: {"observedGeneration": h["metadata"]["generation"], "pods": h["spec"]["size"], "full": True}
            for key, h in herds.items()
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
