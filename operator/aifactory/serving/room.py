"""Whether a version has room in its pods' memory at all: told before a pod is made or a byte is fetched for it.

Only what is certain is told: on a CPU the weights alone are as large as the artifact, whatever else a model needs. How
much that is, the server knows best when it loads the model, and says it in the same way (aifactory_server.device).
"""

from __future__ import annotations

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.api.sizes import bytes_of, human_size
from aifactory.serving import shape
from aifactory.serving.state import VersionView


def too_large(pool: InferencePool, version: VersionView) -> str:
    """What to tell of a version that is larger than the memory limit of Triton's container; empty if it is not.

    On a GPU, if the pods may have one, the weights are not in the container's memory.
    """
    triton = shape.template_container(pool, names.CONTAINER_TRITON)
    limits = (triton.get("resources") or {}).get("limits") or {}
    limit = bytes_of(limits.get("memory"))
    if shape.may_have_gpus(pool) or limit is None or version.size_bytes is None or version.size_bytes <= limit:
        return ""
    return (
        f"ModelVersion {version.name} is too large for the memory of its pods: it is {human_size(version.size_bytes)}, "
        f"and resources.limits.memory of container {names.CONTAINER_TRITON} in spec.template is {limits['memory']}; "
        "raise it: twice the model's size and 1Gi is a good start, as some CPUs compute in float32; or use a GPU"
    )
