"""What users write: custom resources with the fields that the simulation varies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aifactory.kube.resources import Key

Body = dict[str, Any]

NAMESPACE, OTHER = "team", "other"
"""Objects of the same names live in both."""


BAD_INPUT = "s3://data/bad"
"""There is something, which is no artifact."""
BAD_OPTION = "train:bad"
"""An image whose program finds that it can not train."""
BROKEN_TEMPLATE: Body = {"spec": {"containers": [{"name": "triton", "imagePullPolcy": "Always"}]}}
"""For a pool: a typo that only the API server finds when it sees the Deployment."""


ROLLOUTS: Mapping[str, Body] = {
    "Auto": {"strategy": "Auto"},
    "Surge": {"strategy": "Surge"},
    "Canary": {"steps": [{"weight": 30}, {"pauseSeconds": 5}, {"weight": 60}, {"pauseSeconds": 2}]},
    "comparing": {
        "steps": [{"weight": 30}, {"analyzeSeconds": 30}],
        "analysis": {"metrics": [{"name": "errorRate", "max": "0.1"}], "minSamples": 50},
    },
    "Shadow": {
        "strategy": "Shadow",
        "steps": [{"mirror": 50}, {"analyzeSeconds": 30}, {"mirror": 100}, {"pauseSeconds": 5}],
        "analysis": {"metrics": [{"name": "errorRate", "max": "0.1"}], "minSamples": 50},
    },
}
"""How pools change, by a word for it."""


AUTOSCALING: Mapping[str, Body | None] = {
    "none": None,
    "small": {"maxReplicas": 3, "stabilizationSeconds": 30},
    "large": {"minReplicas": 2, "maxReplicas": 4, "stabilizationSeconds": 90, "scaleUpStabilizationSeconds": 10},
    "zero": {"minReplicas": 0, "maxReplicas": 3, "stabilizationSeconds": 30, "idleSeconds": 20},
}
"""How pools are scaled, by a word for it."""
TARGET = 4
"""Requests that a pod of theirs is to have."""


INPUTS: Mapping[str, list[Body]] = {
    "": [],
    "data": [{"name": "data", "uri": "s3://data/1", "secretRef": {"name": "keys"}}],
    "chat": [{"name": "data", "uri": "s3://data/1", "secretRef": {"name": "keys"}, "format": "chat"}],
    "other data": [{"name": "data", "uri": "s3://data/2", "secretRef": {"name": "keys"}}],
    "base": [{"name": "base", "modelVersion": "bert-v1"}],
    "both": [{"name": "data", "uri": "s3://data/1"}, {"name": "base", "modelVersion": "gpt-v1"}],
    "bad": [{"name": "data", "uri": "s3://data/1"}, {"name": "bad", "uri": BAD_INPUT}],
}
"""What jobs read, by a word for it."""


def key(name: str, namespace: str = NAMESPACE) -> Key:
    return Key(namespace, name)


def job_spec(
    *,
    count: int = 1,
    image: str = "train:1",
    invalid: bool = False,
    model: str = "",
    store: str = "",
    suspend: bool = False,
    gang: str = "",
    inputs: str = "",
    check: bool = False,
) -> Body:
    """A TrainingJob's spec. `invalid` carries a typo that only the API server finds when it sees the pod."""
    trainer: Body = {"name": "trainer", "image": image}
    if invalid:
        trainer["imagePullPolcy"] = "Always"
    spec: Body = {"nodes": {"count": count}, "template": {"spec": {"containers": [trainer]}}}
    if suspend:
        spec["suspend"] = True
    if model:
        spec["output"] = {"model": {"name": model, "format": "huggingface"}}
    if model and store:
        spec["output"] |= {"store": store, "secretRef": {"name": "keys"}}
    if gang:
        spec["scheduling"] = {"gang": gang}
    if inputs:
        spec["inputs"] = INPUTS[inputs]
    if check:
        spec["check"] = "always"
    return spec


def version_spec(model: str, version: int, uri: str) -> Body:
    return {"model": model, "version": version, "source": {"uri": uri}, "format": "huggingface"}


def pool_spec(model: str, *, version: int = 0, replicas: int = 1, image: str = "") -> Body:
    """An InferencePool's spec; version 0 follows the newest."""
    wish: Body = {"name": model, "version": version} if version else {"name": model, "track": "Latest"}
    spec: Body = {"models": [wish], "replicas": replicas}
    if image:
        spec["template"] = {"spec": {"containers": [{"name": "triton", "image": image}]}}
    return spec


def gateway(mode: str) -> Body:
    """The way to a pool's pods, as a patch of its spec."""
    return {"mode": mode, "parentRefs": [{"name": "public"}] if mode == "GatewayAPI" else None}


def autoscaling(word: str) -> Body | None:
    found = AUTOSCALING[word]
    metrics = [{"name": "inFlightRequests", "target": str(TARGET)}]
    return {"minReplicas": 1, "scaleUpStabilizationSeconds": 0, "metrics": metrics, **found} if found else None


def sleeps(pool: Body) -> bool:
    """Whether the pool has no pod while nobody asks."""
    return (pool["spec"].get("autoscaling") or {}).get("minReplicas") == 0


def pods_of(pool: Body) -> int:
    """Pods that a pool is to have: of its spec, or what autoscaling has written down."""
    replicas: int = pool["spec"].get("replicas", 1)
    if not (spec := pool["spec"].get("autoscaling")):
        return replicas
    decided = (pool.get("status", {}).get("scaling") or {}).get("replicas", replicas)
    return min(max(decided, spec["minReplicas"]), spec["maxReplicas"])


def body(name: str, spec: Body, namespace: str = NAMESPACE) -> Body:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
