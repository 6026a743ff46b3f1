"""Where inputs are: on a claim of the namespace, each in a directory that is called after its digest.

Jobs share the claim: what one has fetched under a digest the next one finds. A directory is whole from the moment that
it has its name, and nobody changes it then, so pods mount it read-only. The claim belongs to nobody and holds nothing
that could not be fetched again. Whoever needs the room deletes the claim: Kubernetes keeps it until no pod mounts it,
and the next job that needs inputs makes another one. So what a status says of an input holds for one claim, by its UID.
"""

from __future__ import annotations

from typing import Any, Final

from aifactory.api import names
from aifactory.api.conditions import is_true
from aifactory.api.inputs import Input, InputStatus, UsedInput
from aifactory.api.reasons import ConditionType
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.podspec import Json
from aifactory.training.state import Settings

VOLUME: Final = names.INPUT_CLAIM
DIRECTORY: Final = "inputs"
"""On the claim; all inputs are below it."""
READY, FETCHING, WAITING, PENDING = "Ready", "Fetching", "Waiting", "Pending"
"""Phases of an input."""


def claim(job: TrainingJob, settings: Settings) -> Json:
    """The namespace's claim for inputs. It belongs to nobody: other jobs use what is on it too."""
    spec: Json = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": settings.input_claim_size}},
    }
    if settings.input_claim_storage_class:
        spec["storageClassName"] = settings.input_claim_storage_class
    metadata = {
        "name": names.INPUT_CLAIM,
        "namespace": job.metadata.namespace,
        "labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def entries(job: TrainingJob) -> dict[str, InputStatus]:
    """What the status says of inputs, by their names."""
    return {found.name: found for found in job.status.inputs or ()}


def is_there(found: InputStatus, wish: Input) -> bool:
    """Whether what a status says of an input is what the spec asks for."""
    return found.phase == READY and same_origin(found, wish) and wish.digest in (None, found.digest)


def same_origin(found: InputStatus, wish: Input) -> bool:
    """Whether an input comes from where the spec says, as what it says."""
    if wish.model_version is not None:
        return found.model_version == wish.model_version
    return not found.model_version and (found.uri, found.format) == (wish.uri, wish.format or "")


def needed(job: TrainingJob) -> frozenset[str]:
    """Digests of the inputs that pods of the job have or will have; none once it has ended."""
    if any(is_true(job.status.conditions, end) for end in (ConditionType.COMPLETE, ConditionType.FAILED)):
        return frozenset()
    known = {found.digest for found in job.status.inputs or ()} | {wish.digest for wish in job.spec.inputs or ()}
    if job.status.resolved is not None:
        known |= {found.digest for found in job.status.resolved.inputs or ()}
    return frozenset(digest for digest in known if digest)


def used(job: TrainingJob) -> tuple[UsedInput, ...] | None:
    """What pods that are made now find at /workspace/inputs; None while something is missing."""
    known = entries(job)
    result = []
    for wish in job.spec.inputs or ():
        found = known.get(wish.name)
        if found is None or not is_there(found, wish):
            return None
        used_input = UsedInput(
            name=found.name, uri=found.uri, digest=found.digest, model_version=found.model_version or None
        )
        result.append(used_input)
    return tuple(result)


def resolved(job: TrainingJob) -> tuple[UsedInput, ...] | None:
    """What the pods have, also while it is fetched again because the claim was lost, or the status."""
    if not job.spec.inputs:
        return None
    before = job.status.resolved
    found = used(job)
    return found if found is not None else before.inputs if before is not None else None


def put_aside(found: InputStatus) -> InputStatus:
    """An input of a job that fetches nothing now."""
    if found.phase == READY:
        return found
    nothing = dict.fromkeys(("bytes", "total_bytes", "percent", "next_time"))
    return found.model_copy(update={"phase": PENDING, "reason": "", "message": "", "pod": "", **nothing})


def volumes(job: TrainingJob) -> list[Json]:
    """The claim in a pod that trains. Read-only as a whole, so that no kubelet changes who owns the files."""
    if not job.spec.inputs:
        return []
    return [{"name": VOLUME, "persistentVolumeClaim": {"claimName": names.INPUT_CLAIM, "readOnly": True}}]


def mounts(job: TrainingJob) -> list[Json]:
    """The inputs in the trainer."""
    return [
        {
            "name": VOLUME,
            "mountPath": f"{names.INPUTS_MOUNT}/{found.name}",
            "subPath": f"{DIRECTORY}/{found.digest.replace(':', '-')}",
            "readOnly": True,
        }
        for found in used(job) or ()
    ]


def shape(wishes: tuple[Input, ...] | None) -> dict[str, Any]:
    """What of the inputs shapes the pods: which they are, not the credentials. Empty for a job without."""
    if not wishes:
        return {}
    kept = [wish.model_copy(update={"secret_ref": None}).dump() for wish in wishes]
    return {"inputs": sorted(kept, key=lambda wish: str(wish["name"]))}
