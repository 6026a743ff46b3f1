"""Whom a change wakes, where nothing else would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from aifactory.api import names
from aifactory.app.stores import Controllers, connect, make_stores
from aifactory.kube.objects import Metadata, OwnerReference, Pod, PodStatus
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import Key


async def test_a_serving_pod_wakes_its_pool_though_it_belongs_to_a_replica_set() -> None:
    """That it can not pull its image shows in nothing that the pool owns."""
    parts = [SimpleNamespace(queue=WorkQueue[Key](name), wake=lambda _: None) for name in ("jobs", "versions", "pools")]
    stores, controllers = make_stores(), cast("Any", Controllers)(*parts)
    connect(stores, controllers)
    labels = {names.LABEL_ROLE: names.ROLE_SERVE, names.LABEL_POOL: "pool"}
    owner = OwnerReference(kind="ReplicaSet", name="pool-rs", uid="rs", api_version="apps/v1", controller=True)
    metadata = Metadata(
        name="pool-1", namespace="ns", uid="1", resource_version="1", labels=labels, owner_references=(owner,)
    )
    stores.pods.put(Pod(metadata=metadata, status=PodStatus()))
    assert await controllers.pools.queue.get() == Key("ns", "pool")
    assert not len(controllers.jobs.queue)
    assert not len(controllers.versions.queue)
