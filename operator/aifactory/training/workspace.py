"""Where a job's files are: on a claim made for it, or in a directory of its own on a claim of the user's.

On a claim that several jobs share, each sees `jobs/<its uid>` at /workspace and nothing else: it can neither resume
from another's checkpoint nor publish another's output. An init container that runs as the trainer does makes it.
Left to the kubelet it would belong to root with the mode of the volume's root; only where the kubelet applies fsGroup
would a program that is not root be able to write there, and it does not on hostPath and NFS. So whoever may write to
the claim gets its directory, and nobody needs more rights than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aifactory.api import names
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.podspec import Json

VOLUME: Final = "aifactory-workspace"
"""Name of the volume; other containers of the template may mount it too, and see the same directory."""
_CLAIM_MOUNT: Final = "/claim"
_MAKE_DIRECTORY: Final = "import os, sys; os.umask(0o002); [os.makedirs(path, exist_ok=True) for path in sys.argv[1:]]"
_SMALL: Final = {"cpu": "100m", "memory": "128Mi"}


def claim(job: TrainingJob) -> str:
    """Name of the claim that is mounted at /workspace."""
    workspace = job.spec.workspace
    if workspace is not None and workspace.claim_name is not None:
        return workspace.claim_name
    return f"{job.metadata.name}-workspace"


def is_owned(job: TrainingJob) -> bool:
    """Whether the claim is made for the job and deleted with it."""
    return job.spec.workspace is None or job.spec.workspace.claim_name is None


def path(job: TrainingJob) -> str:
    """The job's directory on the claim; "" is all of it.

    A job that began under an operator that knew no directories keeps what it has: its checkpoints are there.
    """
    resolved = job.status.resolved
    if is_owned(job) or (resolved is not None and not resolved.workspace_path):
        return ""
    return f"jobs/{job.metadata.uid}"


def mount(job: TrainingJob) -> Json:
    """The workspace in a container."""
    return narrowed(job, {"name": VOLUME, "mountPath": names.WORKSPACE_MOUNT})


def narrowed(job: TrainingJob, found: Mapping[str, Any]) -> Json:
    """A volume mount which, if it is of the workspace, shows what is the job's and no more."""
    own = path(job)
    if found["name"] != VOLUME or not own or "subPathExpr" in found:
        return dict(found)
    return {**found, "subPath": f"{own}/{found['subPath']}" if found.get("subPath") else own}


def prepared(job: TrainingJob, image: str, trainer: Mapping[str, Any]) -> list[Json]:
    """The init container that makes the job's directory; none where the claim is the job's own.

    Also the directories over which inputs are mounted: left to the container runtime they would be made by root too.
    It limits what it requests: one container without limits takes the class Guaranteed, and with it cores of their own,
    from the whole pod.
    """
    if not path(job):
        return []
    theirs = trainer.get("securityContext") or {}
    identity = {name: theirs[name] for name in ("runAsUser", "runAsGroup", "runAsNonRoot") if name in theirs}
    own = f"{_CLAIM_MOUNT}/{path(job)}"
    inside = names.INPUTS_MOUNT.removeprefix(names.WORKSPACE_MOUNT)
    directories = [own, *(f"{own}{inside}/{found.name}" for found in job.spec.inputs or ())]
    return [
        {
            "name": VOLUME,
            "image": image,
            "command": ["python3", "-c", _MAKE_DIRECTORY, *directories],
            "volumeMounts": [{"name": VOLUME, "mountPath": _CLAIM_MOUNT}],
            "resources": {"requests": _SMALL, "limits": _SMALL},
            "securityContext": {**identity, "readOnlyRootFilesystem": True},
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
    ]


def narrowed_all(job: TrainingJob, containers: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Containers of the template, which see of the workspace what is the job's."""
    return [
        {**container, "volumeMounts": [narrowed(job, found) for found in container["volumeMounts"]]}
        if container.get("volumeMounts")
        else dict(container)
        for container in containers
    ]
