"""Metrics of jobs. What was not reported, or has no price, has no sample: never 0. A job that is done has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from aifactory.engine.domain import Family, Sample

INPUTS: Final = Family("aifactory_job_inputs", "gauge", "Inputs of the job by phase.", "namespace name phase")
INPUT_BYTES: Final = Family("aifactory_job_input_bytes", "gauge", "Bytes of its inputs that are there.")
RUNNING: Final = Family("aifactory_job_running", "gauge", "1 if all pods of the job run, else 0.")
STEP: Final = Family("aifactory_job_step", "gauge", "The training step that was reported last.")
PROGRESS: Final = Family("aifactory_job_progress_ratio", "gauge", "The part of all steps that is done, from 0 to 1.")
LOSS: Final = Family("aifactory_job_loss", "gauge", "The loss that was reported last.")
TOKENS: Final = Family("aifactory_job_tokens_per_second", "gauge", "Tokens trained on, as reported last.")
REPORTED: Final = Family(
    "aifactory_job_last_report_timestamp_seconds", "gauge", "When the training program reported last."
)
RESTARTS: Final = Family("aifactory_job_restarts_total", "counter", "Restarts of all pods of the job.")
LOST_STEPS: Final = Family("aifactory_job_lost_steps_total", "counter", "Steps done again after restarts.")
FAILED: Final = Family(
    "aifactory_job_failed_timestamp_seconds", "gauge", "When the job failed for good.", "namespace name reason"
)
GPUS: Final = Family("aifactory_job_gpus", "gauge", "GPUs that the pods hold.")
GPU_SECONDS: Final = Family("aifactory_job_gpu_seconds_total", "counter", "Seconds of GPUs that pods have held.")
LOST_SECONDS: Final = Family(
    "aifactory_job_lost_gpu_seconds_total",
    "counter",
    "Seconds of GPUs in which nothing was learned that lasted: starts, ends, and training that restarts threw away.",
)
PRICE: Final = Family("aifactory_job_gpu_hour_price", "gauge", "Price of a GPU for an hour.")
FAMILIES: Final = (
    *(INPUTS, INPUT_BYTES, RUNNING, STEP, PROGRESS, LOSS, TOKENS, REPORTED, RESTARTS, LOST_STEPS, FAILED),
    *(GPUS, GPU_SECONDS, LOST_SECONDS, PRICE),
)
_DONE: Final = ("Succeeded", "Failed")


class _Progress(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    last_heartbeat_time: datetime
    step: int
    total_steps: int | None = None
    loss: str | None = None
    tokens_per_second: str | None = None


class _Input(msgspec.Struct, frozen=True, gc=False):
    phase: str
    bytes: int | None = None


class _Restarts(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    total: int = 0
    lost_steps: int = 0


class _Use(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    since: datetime
    gpus: int = 0
    gpu_seconds: int = 0
    gpu_hour_price: str | None = None
    trains: bool | None = None
    lost_gpu_seconds: int = msgspec.field(default=0, name="lostGPUSeconds")


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    phase: str = ""
    reason: str = ""
    completion_time: datetime | None = None
    inputs: tuple[_Input, ...] = ()
    progress: _Progress | None = None
    restarts: _Restarts = _Restarts()
    cost: _Use | None = None


class _Job(msgspec.Struct, frozen=True, gc=False):
    status: _Status = _Status()


_decode: Final = msgspec.json.Decoder(_Job).decode


def samples(body: bytes) -> Iterable[Sample]:
    """The figures of a job from its JSON. Raises ValueError or msgspec's own."""
    status = _decode(body).status
    if status.phase == "Failed" and status.completion_time is not None:
        yield Sample(FAILED, status.completion_time.timestamp(), (status.reason,))
    if not status.phase or status.phase in _DONE:
        return
    for phase, count in Counter(each.phase for each in status.inputs).items():
        yield Sample(INPUTS, count, (phase,))
    if status.inputs:
        yield Sample(INPUT_BYTES, sum(each.bytes or 0 for each in status.inputs))
    yield Sample(RUNNING, status.phase == "Running")
    yield Sample(RESTARTS, status.restarts.total)
    yield Sample(LOST_STEPS, status.restarts.lost_steps)
    if (told := status.progress) is not None:
        yield Sample(STEP, told.step)
        yield Sample(REPORTED, told.last_heartbeat_time.timestamp())
        if told.total_steps:
            yield Sample(PROGRESS, min(1.0, told.step / told.total_steps))
        yield from _known(LOSS, told.loss)
        yield from _known(TOKENS, told.tokens_per_second)
    if (use := status.cost) is not None:
        yield Sample(GPUS, use.gpus)
        yield Sample(GPU_SECONDS, use.gpu_seconds, per_second=use.gpus, since=use.since)
        lost = 0 if use.trains else use.gpus
        yield Sample(LOST_SECONDS, use.lost_gpu_seconds, per_second=lost, since=use.since)
        yield from _known(PRICE, use.gpu_hour_price)


def _known(family: Family, figure: str | None) -> Iterable[Sample]:
    return () if figure is None else (Sample(family, float(figure)),)
