"""What nodes that are drained or lost may take from a pool at a time.

The budget lets a drain take one pod after another, and one that is not ready at any time; a pool of one pod does not
hold up a drain. That pods lie on several nodes is a wish: a cluster with one node serves as well.

Sources: https://kubernetes.io/docs/tasks/run-application/configure-pdb/,
https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
"""

from __future__ import annotations

from aifactory.api.inferencepool import InferencePool
from aifactory.engine.podspec import Json
from aifactory.serving import scaling
from aifactory.serving.objects import metadata, selector

MAX_UNAVAILABLE = 1


def budget_name(pool: str) -> str:
    """Name of the PodDisruptionBudget: not the pool's own, which users may have given to a budget of theirs."""
    return f"{pool}-serving"


def wants_budget(pool: InferencePool) -> bool:
    """Whether a budget would say anything: of one pod a drain may take one. Once it is there it is kept."""
    return scaling.wanted(pool) > MAX_UNAVAILABLE


def budget(pool: InferencePool) -> Json:
    """The PodDisruptionBudget over the pods of every revision."""
    return budget_over(metadata(pool, budget_name(pool.metadata.name), {}), selector(pool))


def budget_over(meta: Json, pods: dict[str, str]) -> Json:
    """A PodDisruptionBudget over the pods with these labels: a drain takes one after another."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {
            "maxUnavailable": MAX_UNAVAILABLE,
            "selector": {"matchLabels": pods},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def spread(pods: dict[str, str]) -> list[Json]:
    """Pods with these labels lie on different nodes where there are enough."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": pods},
        }
    ]
