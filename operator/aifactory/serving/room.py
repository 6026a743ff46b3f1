"""Whether a version has room in its pods' memory at all: told before a pod is made or a byte is fetched for it.

Only what is certain is told: on a CPU the weights alone are as large as the artifact, whatever else a model needs. How
much that is, the server knows best when it loads the model, and says it in the same way (aifactory_server.device).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.sizes import bytes_of, human_size
from aifactory.serving import shape
from aifactory.serving.state import VersionView

SERVER_BYTES: Final = 64 * 1024 * 1024
"""Triton's own memory, without models: a third of it, and some room."""


def too_large(pool: InferencePool, version: VersionView) -> str:
    """What to tell of a version that is larger than the memory limit of Triton's container; empty if it is not.

    On a GPU, if the pods may have one, the weights are not in the container's memory.
    """
    limit, written = memory_limit(pool)
    if limit is None or version.size_bytes is None or version.size_bytes <= limit:
        return ""
    return (
        f"ModelVersion {version.name} is too large for the memory of its pods: it is {human_size(version.size_bytes)}, "
        f"and resources.limits.memory of container {names.CONTAINER_TRITON} in spec.template is {written}; "
        "raise it: twice the model's size and 1Gi is a good start, as some CPUs compute in float32; or use a GPU"
    )


def too_many(pool: InferencePool, version: VersionView, beside: Sequence[VersionView]) -> str:
    """What to tell of a version that has no room in its pods' memory beside others; empty if it has, or may have.

    What each takes was measured when it was tried, on a CPU; of one that was not tried it is its size at least.
    """
    if words := too_large(pool, version):
        return words
    limit, written = memory_limit(pool)
    needed = {each.name: each.taken_bytes for each in (version, *beside)}
    total = sum(needed.values()) + SERVER_BYTES
    if limit is None or total <= limit:
        return ""
    others = ", ".join(f"{each.name} {human_size(needed[each.name])}" for each in beside)
    others = f"{others} and Triton {human_size(SERVER_BYTES)}" if others else f"Triton {human_size(SERVER_BYTES)}"
    return (
        f"ModelVersion {version.name} does not fit: it takes {human_size(needed[version.name])} of memory, beside it "
        f"{others}, {human_size(total)} together, and resources.limits.memory of container {names.CONTAINER_TRITON} in "
        f"spec.template is {written}; raise it, or give {version.model} a pool of its own"
    )


def memory_limit(pool: InferencePool) -> tuple[int | None, object]:
    """Bytes that all models together may take in a pod, and as the user wrote it; None where that is not known.

    On a GPU, if the pods may have one, the weights are not in the container's memory.
    """
    limits = (shape.template_container(pool, names.CONTAINER_TRITON).get("resources") or {}).get("limits") or {}
    written = limits.get("memory")
    return (None if shape.may_have_gpus(pool) else bytes_of(written)), written
