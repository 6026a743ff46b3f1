"""The pods in which a training program looks at its options and inputs, as the API server gets them.

A pod is called `<job>-check-<eight digits>-<number>`; the digits stand for what is looked at. It is the trainer's own
container, with its command, image, volumes and variables, without GPUs and alone.

What always holds:
- It changes nothing that is the job's: inputs and checkpoints are mounted read-only, /workspace is its own and goes
  with it, and it has no token to report with.
- The job's claim is mounted only where a checkpoint was reported and several nodes may mount it. One that is mounted
  for the first time may be bound to where this pod happens to run, which may not be where the GPUs are.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aifactory.api import names
from aifactory.api.sizes import bytes_of
from aifactory.api.trainingjob import TrainingJob
from aifactory.engine.cost import device_resource
from aifactory.engine.podspec import Json, merge_named
from aifactory.engine.taskpods import placement, task_object
from aifactory.training import cache, children, rendezvous, workspace
from aifactory.training.state import Observed

VARIABLE: Final = "AIFACTORY_CHECK"
_WORKSPACE: Final = "aifactory-scratch"
_OF_CONTAINER: Final = ("image", "imagePullPolicy", "command", "args", "workingDir", "envFrom", "securityContext")
_OF_POD: Final = (
    *("securityContext", "serviceAccountName", "automountServiceAccountToken", "dnsPolicy", "dnsConfig", "hostAliases"),
    "enableServiceLinks",
)
"""Of the template. Not: where its pods are placed, how they are told apart, and what runs beside the trainer."""
_PLATFORM: Final = ("kubernetes.io/arch", "kubernetes.io/os")
"""What of its node selector says where its image runs at all."""


def pods_name(job: TrainingJob, of: str) -> str:
    """What the pods of a check are called, without their number."""
    return f"{job.metadata.name}-check-{of}"


def asks_for_devices(job: TrainingJob) -> bool:
    """Whether the trainer gets GPUs, by limits or by claims (DRA)."""
    pod = job.spec.template.raw_spec()
    return bool(device_resource(children.trainer(pod)) or pod.get("resourceClaims"))


def coming(job: TrainingJob, device_memory: int | None) -> Json:
    """What a program is told of the processes that are to train."""
    trainer = children.trainer(job.spec.template.raw_spec())
    here = children.resolve_processes(job.spec)
    found: Json = {"processes": here * job.spec.nodes.count}
    if asks_for_devices(job):
        memory, found["device"] = device_memory, "cuda"
    else:
        limit = bytes_of(((trainer.get("resources") or {}).get("limits") or {}).get("memory", ""))
        memory, found["device"] = limit and limit // here, "cpu"
    return {**found, "memoryBytes": memory} if memory else found


def checker(observed: Observed, of: str, number: int) -> Json:
    """The pod of a try."""
    job, settings = observed.job, observed.settings
    defaults = settings.task_pods.of(job.metadata.namespace)
    template = job.spec.template.raw_spec()
    trainer = children.trainer(template)
    container: Json = {name: trainer[name] for name in _OF_CONTAINER if name in trainer}
    container |= {
        "name": names.ROLE_CHECK,
        "env": [*_environment(observed), *trainer.get("env", ())],
        "resources": defaults.check.resources,
        "volumeMounts": merge_named(_theirs(trainer), _mounts(observed), key="mountPath"),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Json = {name: template[name] for name in _OF_POD if name in template}
    selector = {name: value for name, value in (template.get("nodeSelector") or {}).items() if name in _PLATFORM}
    placed = placement(defaults, template)
    if template.get("serviceAccountName"):
        placed = {name: value for name, value in placed.items() if name not in _OF_POD}
    if selector:
        placed["nodeSelector"] = {**selector, **placed.get("nodeSelector", {})}
    spec |= placed
    spec |= {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": defaults.check.active_deadline_seconds,
        "containers": [container],
        "volumes": merge_named(template.get("volumes", ()), _volumes(observed)),
    }
    name = f"{pods_name(job, of)}-{number}"
    return task_object(defaults, children.metadata_of(job, name, {names.LABEL_ROLE: names.ROLE_CHECK}), spec)


def _environment(observed: Observed) -> list[Json]:
    job = observed.job
    env = {
        "AIFACTORY_JOB": job.metadata.name,
        "AIFACTORY_ATTEMPT": str(job.status.attempt),
        VARIABLE: json.dumps(coming(job, observed.device_memory)),
        **children.directories(job),
        **rendezvous.environment_alone(job),
    }
    return [{"name": name, "value": value} for name, value in env.items()]


def _theirs(trainer: Json) -> list[Json]:
    """The template's own mounts, but for those of the job's workspace."""
    mounts: list[dict[str, Any]] = [dict(mount) for mount in trainer.get("volumeMounts", ())]
    return [
        {**mount, "mountPath": mount["mountPath"].rstrip("/") or "/"}
        for mount in mounts
        if mount["name"] != workspace.VOLUME
    ]


def _sees_checkpoints(observed: Observed) -> bool:
    return observed.job.status.checkpoint is not None and observed.workspace_shared


def _mounts(observed: Observed) -> list[Json]:
    mounts: list[Json] = [{"name": _WORKSPACE, "mountPath": names.WORKSPACE_MOUNT}, *cache.mounts(observed.job)]
    if _sees_checkpoints(observed):
        path = f"{names.WORKSPACE_MOUNT}/checkpoints"
        whole = {"name": workspace.VOLUME, "mountPath": path, "subPath": "checkpoints", "readOnly": True}
        mounts.append(workspace.narrowed(observed.job, whole))
    return mounts


def _volumes(observed: Observed) -> list[Json]:
    job = observed.job
    volumes: list[Json] = [{"name": _WORKSPACE, "emptyDir": {}}, *cache.volumes(job)]
    if _sees_checkpoints(observed):
        claim = {"claimName": workspace.claim(job)}
        volumes.append({"name": workspace.VOLUME, "persistentVolumeClaim": claim})
    return volumes
