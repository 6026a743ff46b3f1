"""Metrics of pools. What is not measured, or has no price, has no sample: never 0."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from aifactory.api.inferencepool import DEFAULT_REPLICAS
from aifactory.engine.domain import Family, Sample

_MODEL: Final = "namespace name model"
WANTED: Final = Family("aifactory_pool_replicas_wanted", "gauge", "Serving pods that the pool shall have.")
READY: Final = Family("aifactory_pool_replicas_ready", "gauge", "Serving pods that are ready.")
AVAILABLE: Final = Family("aifactory_pool_available", "gauge", "1 if at least one pod answers, else 0.")
VERSION: Final = Family(
    "aifactory_pool_version", "gauge", "Number of the model's version that was complete last, in a pool of one model."
)
REQUESTS: Final = Family(
    "aifactory_pool_requests_per_second", "gauge", "Requests answered, told anew when it differs by a tenth."
)
TOKENS: Final = Family(
    "aifactory_pool_tokens_per_second", "gauge", "Tokens generated, told anew when it differs by a tenth."
)
ROLLOUT: Final = Family(
    "aifactory_pool_rollout", "gauge", "1 for the phase of the last change of versions.", "namespace name phase reason"
)
MODEL_VERSION: Final = Family(
    "aifactory_pool_model_version", "gauge", "Of several models: number of the version served.", _MODEL
)
MODEL_READY: Final = Family(
    "aifactory_pool_model_replicas_ready", "gauge", "Of several models: ready pods that serve it.", _MODEL
)
MODEL_MEMORY: Final = Family(
    "aifactory_pool_model_memory_bytes", "gauge", "Of several models: memory of the version, as measured.", _MODEL
)
MODEL_STATE: Final = Family(
    "aifactory_pool_model_state", "gauge", "Of several models: 1 for the state of each.", f"{_MODEL} state reason"
)
MODEL_REQUESTS: Final = Family(
    "aifactory_pool_model_requests_per_second", "gauge", "Of several models: requests answered.", _MODEL
)
MODEL_TOKENS: Final = Family(
    "aifactory_pool_model_tokens_per_second", "gauge", "Of several models: tokens generated.", _MODEL
)
GPUS: Final = Family("aifactory_pool_gpus", "gauge", "GPUs that the serving pods hold.")
GPU_SECONDS: Final = Family("aifactory_pool_gpu_seconds_total", "counter", "Seconds of GPUs that pods have held.")
IDLE_SECONDS: Final = Family(
    "aifactory_pool_idle_gpu_seconds_total", "counter", "Seconds of GPUs from which nobody had an answer."
)
SURGE_SECONDS: Final = Family(
    "aifactory_pool_surge_gpu_seconds",
    "gauge",
    "Seconds of GPUs beyond the pool's own, in the last change of versions.",
)
PRICE: Final = Family("aifactory_pool_gpu_hour_price", "gauge", "Price of a GPU for an hour.")
MILLION_TOKENS: Final = Family("aifactory_pool_cost_per_million_tokens", "gauge", "Cost of a million tokens now.")
MILLION_REQUESTS: Final = Family(
    "aifactory_pool_cost_per_million_requests", "gauge", "Cost of a million requests now, of models without tokens."
)
JOULES: Final = Family(
    "aifactory_pool_joules_per_token", "gauge", "Energy of the pool's GPUs for a token, where Triton can read it."
)
FAMILIES: Final = (
    *(WANTED, READY, AVAILABLE, VERSION, REQUESTS, TOKENS, ROLLOUT, GPUS, GPU_SECONDS, IDLE_SECONDS, SURGE_SECONDS),
    *(PRICE, MILLION_TOKENS, MILLION_REQUESTS, JOULES),
    *(MODEL_VERSION, MODEL_READY, MODEL_MEMORY, MODEL_STATE, MODEL_REQUESTS, MODEL_TOKENS),
)


class _Spec(msgspec.Struct, frozen=True, gc=False):
    replicas: int | None = None


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str
    status: str


class _Figures(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    requests_per_second: str
    tokens_per_second: str


class _Model(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    state: str
    version: int | None = None
    ready_replicas: int = 0
    memory_bytes: int | None = None
    reason: str = ""


class _Throughput(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    requests_per_second: str
    tokens_per_second: str
    models: tuple[_Figures, ...] = ()
    cost_per_million_tokens: str | None = None
    cost_per_million_requests: str | None = None
    joules_per_token: str | None = None


class _Use(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    since: datetime
    gpus: int = 0
    gpu_seconds: int = 0
    gpu_hour_price: str | None = None
    idle: bool | None = None
    idle_gpu_seconds: int = msgspec.field(default=0, name="idleGPUSeconds")
    surge: int = 0
    surge_revision: str = ""
    surge_gpu_seconds: int = msgspec.field(default=0, name="surgeGPUSeconds")


class _Rollout(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    reason: str = ""


class _Scaling(msgspec.Struct, frozen=True, gc=False):
    replicas: int


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    ready_replicas: int = 0
    version: str = ""
    conditions: tuple[_Condition, ...] = ()
    models: tuple[_Model, ...] = ()
    throughput: _Throughput | None = None
    rollout: _Rollout | None = None
    scaling: _Scaling | None = None
    cost: _Use | None = None


class _Pool(msgspec.Struct, frozen=True, gc=False):
    spec: _Spec = _Spec()
    status: _Status = _Status()


_decode: Final = msgspec.json.Decoder(_Pool).decode


def samples(body: bytes) -> Iterable[Sample]:
    """The figures of a pool from its JSON. Raises ValueError or msgspec's own."""
    pool = _decode(body)
    status = pool.status
    asked = DEFAULT_REPLICAS if pool.spec.replicas is None else pool.spec.replicas
    yield Sample(WANTED, status.scaling.replicas if status.scaling is not None else asked)
    yield Sample(READY, status.ready_replicas)
    available = next((found.status for found in status.conditions if found.type == "Available"), None)
    if available is not None:
        yield Sample(AVAILABLE, available == "True")
    if status.version.isdecimal():
        yield Sample(VERSION, int(status.version))
    yield from _of_models(status)
    if status.rollout is not None:
        yield Sample(ROLLOUT, 1, (status.rollout.phase, status.rollout.reason))
    if (figures := status.throughput) is not None:
        yield Sample(REQUESTS, float(figures.requests_per_second))
        yield Sample(TOKENS, float(figures.tokens_per_second))
        yield from _known(MILLION_TOKENS, figures.cost_per_million_tokens)
        yield from _known(MILLION_REQUESTS, figures.cost_per_million_requests)
        yield from _known(JOULES, figures.joules_per_token)
    if (use := status.cost) is not None:
        yield Sample(GPUS, use.gpus)
        yield Sample(GPU_SECONDS, use.gpu_seconds, per_second=use.gpus, since=use.since)
        yield Sample(IDLE_SECONDS, use.idle_gpu_seconds, per_second=use.gpus if use.idle else 0, since=use.since)
        yield from _known(PRICE, use.gpu_hour_price)
        if use.surge_revision:
            yield Sample(SURGE_SECONDS, use.surge_gpu_seconds, per_second=use.surge, since=use.since)


def _of_models(status: _Status) -> Iterable[Sample]:
    """The figures of each of several models."""
    for model in status.models:
        yield Sample(MODEL_STATE, 1, (model.name, model.state, model.reason))
        if model.version is not None:
            yield Sample(MODEL_VERSION, model.version, (model.name,))
            yield Sample(MODEL_READY, model.ready_replicas, (model.name,))
        if model.memory_bytes is not None:
            yield Sample(MODEL_MEMORY, model.memory_bytes, (model.name,))
    for figures in status.throughput.models if status.throughput is not None else ():
        yield Sample(MODEL_REQUESTS, float(figures.requests_per_second), (figures.name,))
        yield Sample(MODEL_TOKENS, float(figures.tokens_per_second), (figures.name,))


def _known(family: Family, figure: str | None) -> Iterable[Sample]:
    return () if figure is None else (Sample(family, float(figure)),)
