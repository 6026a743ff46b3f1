"""The whole loop (informers, stores, queue, controller) on a real API server that is killed while it works."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import msgspec
import pytest

from aifactory.engine.cluster import Cluster
from aifactory.engine.controller import Controller
from aifactory.engine.executor import Executor
from aifactory.kube.api import Api
from aifactory.kube.auth import SessionProvider
from aifactory.kube.client import Client
from aifactory.kube.errors import KubeError, NotFound
from aifactory.kube.objects import ObjectList, Pod
from aifactory.kube.resources import CRDS, PODS
from aifactory.kube.retry import Retrying
from localcluster.controlplane import ControlPlane
from tests.component.kube.test_informer import eventually
from tests.support.herd import Herds
from tests.unit.engine.herd import HERDS, herd_informers

FREE_FORM = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SCHEMA = {"openAPIV3Schema": {"type": "object", "properties": {"spec": FREE_FORM, "status": FREE_FORM}}}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": str(HERDS)},
    "spec": {
        "group": HERDS.group,
        "scope": "Namespaced",
        "names": {"plural": HERDS.plural, "singular": "herd", "kind": HERDS.kind},
        "versions": [
            {
                "name": HERDS.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": SCHEMA,
            }
        ],
    },
}


class CountingClient(Client):
    """Counts what would change something."""

    writes = 0

    async def _call(self, method: str, *args: Any, **options: Any) -> bytes:
        if method != "GET":
            self.writes += 1
        return await super()._call(method, *args, **options)


class Farm:
    """One controller process' worth of herds in one namespace."""

    def __init__(self, client: Api, namespace: str) -> None:
        kind = Herds()
        cluster = Cluster([kind])
        self.controller = Controller(kind, cluster, Executor(client, cluster.stores))
        cluster.connect({HERDS: self.controller.queue.add})
        self.informers = herd_informers(client, cluster, namespace=namespace)
        self.tasks: list[asyncio.Task[None]] = []
        self.pods = cluster.stores[PODS]

    def view(self, herd: str) -> str:
        """What it believes about a herd's pods, and when its informers last heard anything."""
        known = {
            pod.metadata.name: (pod.metadata.uid, pod.metadata.resource_version, pod.metadata.deletion_timestamp)
            for pod in self.pods.all()
            if pod.metadata.name.startswith(f"{herd}-")
        }
        silent = {str(informer.resource): round(informer.silent_seconds(), 1) for informer in self.informers}
        return f"knows {known}, silent for {silent}, {len(self.controller.queue)} keys queued"

    async def start(self) -> None:
        self.tasks = [asyncio.create_task(informer.run()) for informer in self.informers]
        for informer in self.informers:
            await asyncio.wait_for(informer.synced.wait(), 20)
        self.tasks.append(asyncio.create_task(self.controller.run()))

    async def crash(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def put(client: Api, namespace: str, name: str, size: int) -> None:
    body = {"apiVersion": HERDS.api_version, "kind": HERDS.kind, "metadata": {"name": name, "namespace": namespace}}
    await client.apply(HERDS, {**body, "spec": {"size": size}}, field_manager="user")


async def world(client: Api, namespace: str) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Every herd's size and status, and every herd's pods."""
    raw = await client.list(HERDS, namespace=namespace)
    herds = msgspec.json.decode(raw)["items"]
    found: dict[str, set[str]] = {herd["metadata"]["name"]: set() for herd in herds}
    listed = msgspec.json.decode(await client.list(PODS, namespace=namespace), type=ObjectList[Pod])
    for pod in listed.items or ():
        owner = pod.metadata.controller
        assert owner is not None
        found[owner.name].add(pod.metadata.name)
    return {herd["metadata"]["name"]: herd for herd in herds}, found


async def served(client: Api) -> None:
    """Wait until the API server serves herds."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.list(HERDS)
                return
            except NotFound:
                await asyncio.sleep(0.05)


def is_declared(herd: dict[str, Any], pods: set[str]) -> bool:
    """Whether a herd has exactly its pods and says so."""
    name, size, status = herd["metadata"]["name"], herd["spec"]["size"], herd.get("status", {})
    wanted = {f"{name}-{number}" for number in range(size)}
    return pods == wanted and (status.get("observedGeneration"), status.get("pods")) == (
        herd["metadata"]["generation"],
        size,
    )


async def collect_pods(client: Api, namespace: str) -> None:
    """Play Kubernetes' pod garbage collector, which does not run here.

    An API server deletes a pod that has no node in two steps; one that is killed in between leaves the pod ending for
    ever, and it is the collector (podgc: unscheduled terminating pods) that removes it.
    """
    listed = msgspec.json.decode(await client.list(PODS, namespace=namespace), type=ObjectList[Pod])
    for pod in listed.items or ():
        if pod.metadata.deletion_timestamp is not None:
            with contextlib.suppress(NotFound):
                await client.delete(PODS, namespace, pod.metadata.name, uid=pod.metadata.uid, grace_seconds=0)


async def declared(client: Api, namespace: str, farm: Farm, seconds: float = 90.0) -> None:
    """Wait until every herd is as its spec says."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        herds, pods = await world(client, namespace)
        await collect_pods(client, namespace)
        wrong = {name: (herd, pods[name]) for name, herd in herds.items() if not is_declared(herd, pods[name])}
        if not wrong:
            return
        assert asyncio.get_running_loop().time() < deadline, (
            f"not as declared after {seconds} s: {[(wrong[name], farm.view(name)) for name in wrong]}"
        )
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("seed", [1, 2])
async def test_crashes_on_both_sides_end_in_what_was_declared(
    client: Api, provider: SessionProvider, namespace: str, control_plane: ControlPlane, seed: int
) -> None:

    await client.apply(CRDS, CRD, field_manager="test")
    await served(client)
    rng = random.Random(seed)
    once = CountingClient(provider)
    counting = Retrying(once)
    farm = Farm(counting, namespace)
    await farm.start()
    for step in range(60):
        await put(client, namespace, f"h{rng.randrange(12)}", rng.randrange(5))
        if step == 20:
            control_plane.restart_apiserver(kill=True)
        if step in (30, 45):
            await farm.crash()
            farm = Farm(counting, namespace)
            await farm.start()
        if rng.random() < 0.2:
            try:
                await client.delete(PODS, namespace, f"h{rng.randrange(12)}-{rng.randrange(5)}", grace_seconds=0)
            except KubeError:
                pass

    await declared(client, namespace, farm)
    # Nothing is due any more: when the last delayed status is out, nothing else is written.
    await eventually(lambda: not farm.controller._differs_since, lambda: farm.controller._differs_since)
    writes = once.writes
    await asyncio.sleep(3.0)
    assert once.writes == writes
    await farm.crash()
    await once.close()
