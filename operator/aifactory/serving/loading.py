"""Models that are loaded when they are asked for, where not all of a pool's have room at the same time.

The agent of each pod decides that, by what the operator tells it once: how much memory there is, and what each version
takes of it, as measured. A request waits in the pod, between its OpenAI port and its agent; so nothing of it depends on
the operator, on a gateway, or on another pod, and Triton's own ports, at which nobody could wait, lead nowhere.
"""

from __future__ import annotations

from typing import Final

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool, Loading
from aifactory.api.reasons import Reason
from aifactory.engine.podspec import Json
from aifactory.serving import room, shape
from aifactory.serving.assignment import Waiting
from aifactory.serving.state import VersionView

DEFAULT_HOLD_SECONDS: Final = 120
DEFAULT_HELD_REQUESTS: Final = 100


def told(pool: InferencePool) -> Json | None:
    """What the agents are told of it; None where all models are loaded all the time."""
    if not pool.spec.loads_on_demand:
        return None
    given, (limit, _) = pool.spec.loading or Loading(), room.memory_limit(pool)
    return {
        "memoryBytes": max(0, (limit or 0) - room.SERVER_BYTES),
        "holdSeconds": given.hold_seconds or DEFAULT_HOLD_SECONDS,
        "maxHeldRequests": given.max_held_requests or DEFAULT_HELD_REQUESTS,
    }


def unfit(pool: InferencePool, version: VersionView) -> Waiting | None:
    """Why a version can not be loaded on demand, if the pool wishes that and it can not."""
    if not pool.spec.loads_on_demand:
        return None
    if not version.generates_text:
        message = (
            "spec.loading.mode is OnDemand, in which requests wait for their model at the port of OpenAI's API, and "
            f"{version.name} is of format {version.format}, which is asked by Triton's own ports: give {version.model} "
            "another pool, or leave spec.loading out"
        )
        return Waiting(Reason.UNSERVABLE, message)
    if room.memory_limit(pool)[0] is None:
        why = (
            "it may have GPUs, and what models take of these is not measured"
            if shape.may_have_gpus(pool)
            else "it has no resources.limits.memory, so nobody knows how many models have room"
        )
        message = (
            f"spec.loading.mode is OnDemand, and container {names.CONTAINER_TRITON} in spec.template can not have it: "
            f"{why}; write a limit of memory there and no GPU, or leave spec.loading out"
        )
        return Waiting(Reason.UNSERVABLE, message)
    return None
