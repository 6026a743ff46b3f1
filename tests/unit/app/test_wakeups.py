"""Whom a change wakes, where nothing else would."""

from __future__ import annotations

from typing import Any

from aifactory.api import names
from aifactory.api.base import CustomResource
from aifactory.api.inferencepool import InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.trainingjob import TrainingJob
from aifactory.app.domains import DOMAINS
from aifactory.engine import custom
from aifactory.engine.cluster import Cluster
from aifactory.kube.objects import AppliedMetadata, Deployment, Metadata, OwnerReference, Pod, PodStatus, ReplicaSet
from aifactory.kube.queue import WorkQueue
from aifactory.kube.resources import DEPLOYMENTS, PODS, REPLICASETS, Key
from aifactory.kube.store import Store
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

IDENTITY: dict[str, Any] = {"metadata": {"name": "pool", "namespace": "ns", "uid": "p", "resourceVersion": "1"}}
POOL = {"models": [{"name": "gpt"}]}


class Connected:
    """The stores of the operator's own domains, and queues that show who is woken."""

    def __init__(self) -> None:
        self.cluster = Cluster([kind() for kind in DOMAINS])
        kinds = (TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS)
        self.jobs, self.versions, self.pools = queues = [WorkQueue[Key](kind.plural) for kind in kinds]
        self.cluster.connect({kind: queue.add for kind, queue in zip(kinds, queues, strict=True)})

    def put(self, model: type[CustomResource], body: dict[str, Any]) -> None:
        self.cluster.stored(custom.resource_of(model)).put(custom.parser(model)(body))

    @property
    def pods(self) -> Store[Any]:
        return self.cluster.stores[PODS]


async def worked_on(queue: WorkQueue[Key]) -> set[Key]:
    """Everything that is queued is worked on."""
    keys = set()
    while len(queue):
        key = await queue.get()
        keys.add(key)
        queue.done(key)
    return keys


async def test_a_version_wakes_the_pools_of_its_model_when_what_they_see_of_it_changes() -> None:
    """Which pools use it is in its status: if that woke them, a thousand pools would wake each other for ever."""
    connected = Connected()
    connected.put(InferencePool, {**IDENTITY, "spec": POOL})

    async def woken(version: int, status: dict[str, Any]) -> set[Key]:
        metadata = {"name": "gpt-v1", "namespace": "ns", "uid": "v", "resourceVersion": str(version)}
        spec = {"model": "gpt", "version": 1, "source": {"uri": "s3://gpt/1"}, "format": "huggingface"}
        connected.put(ModelVersion, {"metadata": metadata, "spec": spec, "status": status})
        return await worked_on(connected.pools)

    assert await woken(2, {}) == {Key("ns", "pool")}
    assert await woken(3, {"inUse": 1, "usedBy": [{"kind": "InferencePool", "name": "pool"}]}) == set()
    assert await woken(4, {"inUse": 1, "resolvedDigest": "sha256:1"}) == {Key("ns", "pool")}


async def test_a_pool_wakes_its_versions_when_it_uses_others_than_before() -> None:
    connected = Connected()

    async def woken(version: int, ready: int, *used: str) -> set[Key]:
        body = {**IDENTITY, "metadata": {**IDENTITY["metadata"], "resourceVersion": str(version)}}
        resolved = [{"name": "gpt", "version": 1, "modelVersion": name} for name in used]
        connected.put(InferencePool, {**body, "spec": POOL, "status": {"readyReplicas": ready, "resolved": resolved}})
        return await worked_on(connected.versions)

    assert await woken(2, 0, "gpt-v1") == {Key("ns", "gpt-v1")}
    assert await woken(3, 1, "gpt-v1") == set()
    assert await woken(4, 1, "gpt-v2") == {Key("ns", "gpt-v1"), Key("ns", "gpt-v2")}


def owned(name: str, kind: str, owner: str, uid: str, **labels: str) -> dict[str, Any]:
    """Metadata of something that belongs to something else."""
    api = {"InferencePool": names.API_VERSION, "TrainingJob": names.API_VERSION, "Pod": "v1"}.get(kind, "apps/v1")
    reference = OwnerReference(kind=kind, name=owner, uid=uid, api_version=api, controller=True)
    known = {"name": name, "namespace": "ns", "uid": f"{name}-uid", "resource_version": "1"}
    return {**known, "labels": labels, "owner_references": (reference,)}


async def test_a_serving_pod_wakes_its_pool_over_replica_set_and_deployment() -> None:
    """That it can not pull its image shows in nothing that the pool owns itself."""
    connected = Connected()
    stores = connected.cluster.stores
    stores[DEPLOYMENTS].put(Deployment(metadata=AppliedMetadata(**owned("pool-v1", "InferencePool", "pool", "p"))))
    assert await worked_on(connected.pools) == {Key("ns", "pool")}
    stores[REPLICASETS].put(ReplicaSet(metadata=Metadata(**owned("pool-rs", "Deployment", "pool-v1", "pool-v1-uid"))))
    await worked_on(connected.pools)
    connected.pods.put(
        Pod(metadata=Metadata(**owned("pool-1", "ReplicaSet", "pool-rs", "pool-rs-uid")), status=PodStatus())
    )
    assert await worked_on(connected.pools) == {Key("ns", "pool")}
    assert not len(connected.jobs) + len(connected.versions)


async def test_a_pod_that_only_says_that_it_serves_wakes_nobody() -> None:
    connected = Connected()
    labels = {names.LABEL_ROLE: names.ROLE_SERVE, names.LABEL_POOL: "pool"}
    connected.put(InferencePool, {**IDENTITY, "spec": POOL})
    await worked_on(connected.pools)
    connected.pods.put(Pod(metadata=Metadata(**owned("bad", "ReplicaSet", "no-such-set", "x", **labels))))
    assert not len(connected.pools)
    serving = next(domain for domain in connected.cluster.domains if domain.model is InferencePool)
    observed = serving.gather(custom.parser(InferencePool)({**IDENTITY, "spec": POOL}).model, connected.cluster)
    assert observed.pods == ()


async def test_an_owner_in_another_namespace_is_no_owner() -> None:
    """A pod elsewhere that names a job's UID could make the job publish what it likes."""
    connected = Connected()
    trainer = {"spec": {"containers": [{"name": "trainer", "image": "t"}]}}
    job = {"metadata": {**IDENTITY["metadata"], "name": "job"}, "spec": {"nodes": {"count": 1}, "template": trainer}}
    connected.put(TrainingJob, job)
    labels = {names.LABEL_ROLE: names.ROLE_PUBLISH}
    meta = {**owned("job-publish-0", "TrainingJob", "job", "p", **labels), "namespace": "elsewhere"}
    connected.pods.put(Pod(metadata=Metadata(**meta)))
    assert await worked_on(connected.jobs) <= {Key("ns", "job"), Key("elsewhere", "job")}
    training = next(domain for domain in connected.cluster.domains if domain.model is TrainingJob)
    observed = training.gather(custom.parser(TrainingJob)(job).model, connected.cluster)
    assert (observed.pods, observed.publishers) == ((), ())
