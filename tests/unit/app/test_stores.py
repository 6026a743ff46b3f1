"""Whom a change wakes, where nothing else would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.app.stores import Controllers, Stores, connect, make_stores
from aifactory.engine import custom
from aifactory.kube.objects import Metadata, OwnerReference, Pod, PodStatus
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import Key

IDENTITY: dict[str, Any] = {"metadata": {"name": "pool", "namespace": "ns", "uid": "p", "resourceVersion": "1"}}


def connected() -> tuple[Stores, Controllers]:
    parts = [SimpleNamespace(queue=WorkQueue[Key](name), wake=lambda _: None) for name in ("jobs", "versions", "pools")]
    stores, controllers = make_stores(), cast("Any", Controllers)(*parts)
    connect(stores, controllers)
    return stores, controllers


async def test_a_version_wakes_the_pools_of_its_model_when_what_they_see_of_it_changes() -> None:
    """Which pools use it is in its status: if that woke them, a thousand pools would wake each other for ever."""
    stores, controllers = connected()
    pools = controllers.pools.queue
    pool = {"models": [{"name": "gpt"}]}
    stores.pools.put(custom.parser(InferencePool)({**IDENTITY, "spec": pool}))

    def told(version: int, status: dict[str, Any]) -> int:
        metadata = {"name": "gpt-v1", "namespace": "ns", "uid": "v", "resourceVersion": str(version)}
        spec = {"model": "gpt", "version": 1, "source": {"uri": "s3://gpt/1"}, "format": "causal-lm"}
        stores.versions.put(custom.parser(ModelVersion)({"metadata": metadata, "spec": spec, "status": status}))
        return len(pools)

    async def worked_on() -> None:
        pools.done(await pools.get())

    assert told(2, {}) == 1
    await worked_on()
    assert told(3, {"inUse": 1, "usedBy": [{"kind": "InferencePool", "name": "pool"}]}) == 0
    assert told(4, {"inUse": 1, "resolvedDigest": "sha256:1"}) == 1


async def test_a_pool_wakes_its_versions_when_it_uses_others_than_before() -> None:
    stores, controllers = connected()
    versions = controllers.versions.queue

    def told(version: int, ready: int, *used: str) -> set[Key]:
        body = {**IDENTITY, "metadata": {**IDENTITY["metadata"], "resourceVersion": str(version)}}
        resolved = [{"name": "gpt", "version": 1, "modelVersion": name} for name in used]
        status = {"readyReplicas": ready, "resolved": resolved}
        spec = {"models": [{"name": "gpt"}]}
        stores.pools.put(custom.parser(InferencePool)({**body, "spec": spec, "status": status}))
        return {*versions._fresh}

    async def worked_on() -> None:
        while len(versions):
            versions.done(await versions.get())

    assert told(2, 0, "gpt-v1") == {Key("ns", "gpt-v1")}
    await worked_on()
    assert told(3, 1, "gpt-v1") == set()
    assert told(4, 1, "gpt-v2") == {Key("ns", "gpt-v1"), Key("ns", "gpt-v2")}


async def test_a_serving_pod_wakes_its_pool_though_it_belongs_to_a_replica_set() -> None:
    """That it can not pull its image shows in nothing that the pool owns."""
    stores, controllers = connected()
    labels = {names.LABEL_ROLE: names.ROLE_SERVE, names.LABEL_POOL: "pool"}
    owner = OwnerReference(kind="ReplicaSet", name="pool-rs", uid="rs", api_version="apps/v1", controller=True)
    metadata = Metadata(
        name="pool-1", namespace="ns", uid="1", resource_version="1", labels=labels, owner_references=(owner,)
    )
    stores.pods.put(Pod(metadata=metadata, status=PodStatus()))
    assert await controllers.pools.queue.get() == Key("ns", "pool")
    assert not len(controllers.jobs.queue)
    assert not len(controllers.versions.queue)
