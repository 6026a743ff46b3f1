"""The engine that a pool wishes for: how it is told to the pods, and what can be seen to be wrong before there are any.

Which engine a pod takes in the end is for its agent to say, which knows what the pod's server has.
"""

from __future__ import annotations

from typing import Final

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.reasons import Reason
from aifactory.serving import shape
from aifactory.serving.assignment import Waiting, engine_wish
from aifactory.serving.state import VersionView

_ON_GPUS: Final = frozenset({"vllm"})


def unfit(pool: InferencePool, version: VersionView) -> Waiting | None:
    """Why the version can not be served as the pool wishes, if it can not."""
    wish = engine_wish(pool)
    if not wish:
        return None
    if not version.generates_text:
        message = (
            f"spec.runtime.engine is {wish}, which serves language models, and {version.name} is of format "
            f"{version.format}: leave spec.runtime.engine out"
        )
        return Waiting(Reason.UNSERVABLE, message)
    if wish in _ON_GPUS and not shape.may_have_gpus(pool):
        message = (
            f"spec.runtime.engine is {wish}, which computes on GPUs, and container {names.CONTAINER_TRITON} asks for "
            "none: write nvidia.com/gpu under its resources.limits in spec.template, or leave spec.runtime.engine out"
        )
        return Waiting(Reason.UNSERVABLE, message)
    return None
