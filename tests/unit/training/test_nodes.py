"""Which nodes are lost, and whom that concerns."""

from __future__ import annotations

from typing import Any

import msgspec

from aifactory.api import names
from aifactory.app.domains import DOMAINS
from aifactory.engine.cluster import Cluster
from aifactory.kube.podstate import starting
from aifactory.kube.resources import NODES, PODS, Key, Resource
from aifactory.training.domain import Training
from aifactory.training.nodes import MACHINES, TRAINING_PODS, device_memory, lost_nodes


def put(cluster: Cluster, resource: Resource, body: dict[str, Any]) -> None:
    child = cluster.children[resource]
    cluster.objects(child).put_response(msgspec.json.encode(body))


def node(cluster: Cluster, name: str, ready: str, version: str = "1") -> None:
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]
    meta = {"name": name, "uid": name, "resourceVersion": version}
    put(cluster, NODES, {"metadata": meta, "status": {"conditions": conditions}})


def pod(cluster: Cluster, name: str, job: str, on: str, role: str = names.ROLE_NODE) -> None:
    owner = {"kind": "TrainingJob", "name": job, "uid": job, "apiVersion": names.API_VERSION, "controller": True}
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "ownerReferences": [owner]}
    put(cluster, PODS, {"metadata": {**meta, "labels": {names.LABEL_ROLE: role}}, "spec": {"nodeName": on}})


def test_a_pod_that_has_yet_to_start_is_looked_at_when_there_is_time() -> None:
    assert TRAINING_PODS.halfway is starting


def test_a_node_is_lost_that_does_not_answer_or_is_gone() -> None:
    cluster = Cluster([Training()], {NODES})
    for name, ready in (("a", "True"), ("b", "Unknown"), ("c", "False")):
        node(cluster, name, ready)
    wanted = ["a", "b", "c", "d", ""]
    assert lost_nodes(cluster, wanted) == {"b": "does not answer", "c": "is not ready", "d": "is gone"}


def test_the_largest_device_of_a_kind_is_known_by_the_labels_of_nodes() -> None:
    cluster = Cluster([Training()], {NODES})
    for name, labels in (
        ("a", {"nvidia.com/gpu.memory": "40960", "team": "x"}),
        ("b", {"nvidia.com/gpu.memory": "81559", "nvidia.com/mig-1g.5gb.memory": "4864"}),
        ("c", {"nvidia.com/gpu.memory": "much"}),
        ("d", {}),
    ):
        put(cluster, NODES, {"metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": labels}})
    assert device_memory(cluster, "nvidia.com/gpu") == 81559 << 20
    assert device_memory(cluster, "nvidia.com/mig-1g.5gb") == 4864 << 20
    assert device_memory(cluster, "amd.com/gpu") is None
    kept = cluster.get(MACHINES, "", "a")
    assert kept is not None
    assert kept.metadata.labels == {"nvidia.com/gpu.memory": "40960"}, "nothing else of dozens"


def test_where_nodes_can_not_be_read_nothing_is_said_about_them() -> None:
    assert lost_nodes(Cluster([Training()]), ["a"]) == {}
    assert device_memory(Cluster([Training()]), "nvidia.com/gpu") is None


def test_a_node_that_is_lost_wakes_the_jobs_that_train_on_it() -> None:
    cluster = Cluster([kind() for kind in DOMAINS], {NODES})
    node(cluster, "a", "True")
    pod(cluster, "x-0-0", "x", "a")
    pod(cluster, "y-0-0", "y", "b")
    pod(cluster, "z-publish-0", "z", "a", names.ROLE_PUBLISH)
    woken: list[Key] = []
    wake = dict.fromkeys(
        (domain.resource for domain in cluster.domains), lambda key, background=False: woken.append(key)
    )
    cluster.connect(wake)
    node(cluster, "a", "Unknown", "2")
    assert woken == [Key("ns", "x")]
    node(cluster, "a", "Unknown", "3")
    assert woken == [Key("ns", "x")], "a heartbeat wakes nobody"
