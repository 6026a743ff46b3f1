"""The machines that pods of jobs run on: which are lost, and what their devices have, as far as the cluster knows.

Nodes are read only: whether they are Ready, whether they are there, and what labels say of memory. With a Role instead
of a ClusterRole they can not be read at all, and then nothing is said about them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

from aifactory.api import names
from aifactory.engine.cluster import Cluster
from aifactory.engine.domain import Child
from aifactory.kube.objects import DEVICE_MEMORY, READY, Metadata, Node, Pod, condition
from aifactory.kube.podstate import starting
from aifactory.kube.resources import NODES, PODS

BY_NODE: Final = "node"
FETCHING: Final = "fetching"
"""Pods that fetch inputs and can be asked how far they are: all under `True`."""


def _node_of(pod: Pod) -> Iterable[Hashable]:
    return (pod.spec.node_name,) if pod.spec.node_name else ()


def _fetches(pod: Pod) -> Iterable[Hashable]:
    running = pod.status.phase == "Running" and pod.metadata.labels.get(names.LABEL_ROLE) == names.ROLE_INPUT
    return (True,) if running and pod.status.pod_ip else ()


TRAINING_PODS: Final = Child(PODS, Pod, halfway=starting, indexes={BY_NODE: _node_of, FETCHING: _fetches})


def _pods_of(node: Node, cluster: Cluster) -> Iterable[Metadata]:
    """Pods that train on a node."""
    pods = cluster.having(TRAINING_PODS, BY_NODE, node.metadata.name)
    return [pod.metadata for pod in pods if pod.metadata.labels.get(names.LABEL_ROLE) == names.ROLE_NODE]


def _device_memory(node: Node) -> Iterable[Hashable]:
    return node.metadata.labels


MACHINES: Final = Child(
    NODES, Node, verbs=(), optional=True, selector="", concerns=_pods_of, indexes={DEVICE_MEMORY: _device_memory}
)


def device_memory(cluster: Cluster, resource: str) -> int | None:
    """Bytes of the largest device of this resource (nvidia.com/gpu) that any machine has; None: it is not known."""
    label = f"{resource}{DEVICE_MEMORY}"
    nodes = cluster.having(MACHINES, DEVICE_MEMORY, label) if cluster.serves(MACHINES) else []
    found = [node.metadata.labels[label] for node in nodes]
    return max((int(text) for text in found if text.isdecimal()), default=0) * 2**20 or None


def lost_nodes(cluster: Cluster, wanted: Iterable[str]) -> dict[str, str]:
    """Of these nodes those that are lost, each with words that follow its name: `does not answer`."""
    if not cluster.serves(MACHINES):
        return {}
    found = ((name, _loss(cluster.get(MACHINES, "", name))) for name in set(wanted) if name)
    return {name: message for name, message in found if message}


def _loss(node: Node | None) -> str:
    if node is None:
        return "is gone"
    ready = condition(node.status.conditions, READY)
    if ready is None or ready.status == "True":
        return ""
    return "does not answer" if ready.status == "Unknown" else "is not ready"
