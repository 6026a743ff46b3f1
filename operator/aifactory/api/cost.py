"""What GPUs cost: the price that users give, and the sums that are told back.

Seconds of GPUs are whole numbers and add up exactly. Money is worked out from them by the price of today, and rounded
only where it is written (`engine.cost.money`). What is not known is left out, never 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aifactory.api.base import Model, Time

GPU_HOUR_PRICE = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"


class Cost(Model):
    """What the GPUs of its pods cost. It changes no pod, and all sums are told anew."""

    gpu_hour_price: Annotated[str, Field(pattern=GPU_HOUR_PRICE)] | None = None
    """Price of a GPU for an hour, for example "2.49", in whatever currency you reckon in (default: the chart's
    gpuHourPrice)."""


class GpuUse(Model):
    """GPUs of an object's pods, and what they came to. `gpuSeconds` and its parts are up to `since`: what has come to
    since then is told with the next change, and by the operator's metrics at once."""

    gpus: int = 0
    """GPUs that its pods hold, from when they have a node until they are gone."""
    since: Time
    gpu_seconds: int = 0
    gpu_hour_price: str | None = None
    """The price that the sums of money go by; left out where there is none, and then they are too."""
    cost: str | None = None
    """Of gpuSeconds."""


class PoolUse(GpuUse):
    """GPUs of a pool."""

    idle: bool | None = None
    """Nobody gets an answer from them: no pod is ready, or none was asked for anything in the last window."""
    idle_gpu_seconds: Annotated[int, Field(alias="idleGPUSeconds")] = 0
    idle_cost: str | None = None
    surge: int = 0
    """GPUs of pods beyond spec.replicas, while the pool changes from one version to another."""
    surge_revision: str = ""
    """The change that the next two are about: the one under way, or the last."""
    surge_gpu_seconds: Annotated[int, Field(alias="surgeGPUSeconds")] = 0
    surge_cost: str | None = None


class JobUse(GpuUse):
    """GPUs of a job."""

    trains: bool | None = None
    """All of its pods run."""
    unsaved_gpu_seconds: Annotated[int, Field(alias="unsavedGPUSeconds")] = 0
    """Of training since the last checkpoint: lost if the job is restarted now."""
    lost_gpu_seconds: Annotated[int, Field(alias="lostGPUSeconds")] = 0
    """In which nothing was learned that lasted: pods that started or ended, and training that restarts threw away."""
    lost_cost: str | None = None
    goodput: str | None = None
    """The part of gpuSeconds that was not lost, from 0 to 1."""
