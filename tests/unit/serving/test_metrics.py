"""What is told of a pool: what its status says, and nothing that it does not say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aifactory.engine.domain import Sample
from aifactory.serving import metrics
from tests.unit.serving.builders import NOW

USE = {"since": NOW.isoformat(), "gpus": 4, "gpuSeconds": 100, "idle": True, "idleGPUSeconds": 60}
FIGURES = {"requestsPerSecond": "4.2", "tokensPerSecond": "0"}


def told(spec: dict[str, Any] | None = None, **status: Any) -> dict[str, float]:
    """Values by name, and by labels beyond those that all have."""
    return {name(sample): sample.value for sample in of(status, spec)}


def name(sample: Sample) -> str:
    own = sample.family.labels.split()[2:]
    labels = ",".join(f"{label}={value}" for label, value in zip(own, sample.labels, strict=True))
    return sample.family.name.removeprefix("aifactory_pool_") + (f"{{{labels}}}" if labels else "")


def of(status: dict[str, Any], spec: dict[str, Any] | None = None) -> list[Sample]:
    return list(metrics.samples(json.dumps({"metadata": {}, "spec": spec or {}, "status": status}).encode()))


def test_a_pool_that_only_began() -> None:
    assert told() == {"replicas_wanted": 1, "replicas_ready": 0}
    assert told({"replicas": 0}) == {"replicas_wanted": 0, "replicas_ready": 0}


def test_each_of_several_models() -> None:
    models = [
        {"name": "gpt", "state": "Serving", "version": 3, "readyReplicas": 2, "memoryBytes": 1000},
        {"name": "bert", "state": "Refused", "reason": "ModelTooLarge"},
        {"name": "t5", "state": "Changing", "version": 1},
    ]
    figures = {**FIGURES, "models": [{"name": "gpt", **FIGURES}]}
    found = told(version="gpt@3", models=models, throughput=figures)
    assert "version" not in found
    assert {name: value for name, value in found.items() if name.startswith("model_")} == {
        "model_state{model=gpt,state=Serving,reason=}": 1,
        "model_version{model=gpt}": 3,
        "model_replicas_ready{model=gpt}": 2,
        "model_memory_bytes{model=gpt}": 1000,
        "model_state{model=bert,state=Refused,reason=ModelTooLarge}": 1,
        "model_state{model=t5,state=Changing,reason=}": 1,
        "model_version{model=t5}": 1,
        "model_replicas_ready{model=t5}": 0,
        "model_requests_per_second{model=gpt}": 4.2,
        "model_tokens_per_second{model=gpt}": 0,
    }


def test_what_only_grows_is_a_counter() -> None:
    types = {family.name: family.type for family in metrics.FAMILIES}
    assert types == {name: "counter" if name.endswith("_total") else "gauge" for name in types}


def test_a_pool_that_answers() -> None:
    available = [{"type": "Ready", "status": "False"}, {"type": "Available", "status": "True"}]
    prices = {"costPerMillionTokens": "0.92", "costPerMillionRequests": "7.5", "joulesPerToken": "3.1"}
    surge = {"surge": 2, "surgeRevision": "r2", "surgeGPUSeconds": 30, "gpuHourPrice": "2.49"}
    status = {"readyReplicas": 2, "version": "3", "conditions": available, "throughput": {**FIGURES, **prices}}
    rollout = {"phase": "RolledBack", "reason": "AnalysisFailed"}
    assert told({"replicas": 2}, **status, rollout=rollout, cost={**USE, **surge}) == {
        "replicas_wanted": 2,
        "replicas_ready": 2,
        "available": 1,
        "version": 3,
        "rollout{phase=RolledBack,reason=AnalysisFailed}": 1,
        "requests_per_second": 4.2,
        "tokens_per_second": 0,
        "cost_per_million_tokens": 0.92,
        "cost_per_million_requests": 7.5,
        "joules_per_token": 3.1,
        "gpus": 4,
        "gpu_seconds_total": 100,
        "idle_gpu_seconds_total": 60,
        "gpu_hour_price": 2.49,
        "surge_gpu_seconds": 30,
    }


def test_what_is_not_known_is_not_zero() -> None:
    without = told(throughput=FIGURES, cost=USE).keys()
    assert {"requests_per_second", "gpus"} <= without
    unknown = {"gpu_hour_price", "cost_per_million_tokens", "cost_per_million_requests", "joules_per_token"}
    assert not without & {*unknown, "surge_gpu_seconds", "available", "version", "rollout"}


def test_sums_begin_at_nothing() -> None:
    found = {sample.family: sample for sample in of({"cost": {"since": NOW.isoformat(), "surgeRevision": "r1"}})}
    for family in (metrics.GPUS, metrics.GPU_SECONDS, metrics.IDLE_SECONDS, metrics.SURGE_SECONDS):
        assert (found[family].value, found[family].per_second) == (0, 0), family.name


def test_what_is_not_available_is_told() -> None:
    assert told(conditions=[{"type": "Available", "status": "False"}])["available"] == 0


def test_autoscaling_says_what_is_wanted() -> None:
    assert told({"replicas": 2}, scaling={"replicas": 5})["replicas_wanted"] == 5


@pytest.mark.parametrize(("idle", "grows"), [(True, 4), (False, 0), (None, 0)])
def test_seconds_grow_by_the_gpus(idle: bool | None, grows: int) -> None:
    use = {**USE, "idle": idle, "surge": 2, "surgeRevision": "r2", "surgeGPUSeconds": 30}
    found = {sample.family: sample for sample in of({"cost": use})}
    each = {metrics.GPU_SECONDS: 4, metrics.IDLE_SECONDS: grows, metrics.SURGE_SECONDS: 2}
    for family, per_second in each.items():
        assert (found[family].per_second, found[family].since) == (per_second, NOW), family.name
