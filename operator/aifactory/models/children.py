"""The pod that checks an artifact, as the API server gets it."""

from __future__ import annotations

import json
from typing import Final

from aifactory.api import names, numbers
from aifactory.api.modelversion import ModelVersion, Validation
from aifactory.api.sizes import bytes_of
from aifactory.engine.podspec import Json, memory_volume, owner_reference
from aifactory.engine.taskpods import build, hub_environment
from aifactory.models.state import Settings

TIMEOUT_SECONDS: Final = 300
"""For load and answers of a version that is tried."""
_CACHE_BYTES: Final = 256 * 1024 * 1024
_REPOSITORY: Final = "/repository"


def counter(version: ModelVersion) -> Json:
    """The ConfigMap that remembers the model's highest number. It belongs to nobody: it outlives every version."""
    model = version.spec.model
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": numbers.object_name(model),
            "namespace": version.metadata.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE, names.LABEL_MODEL: model},
            "annotations": {numbers.ANNOTATION: str(version.spec.version)},
        },
    }


def verifier_name(version: str, number: int) -> str:
    """Name of a pod that checks."""
    return f"{version}-verify-{number}"


def validates(version: ModelVersion, settings: Settings) -> bool:
    """Whether the version is tried before it may be Ready."""
    wish = version.spec.validation.enabled if version.spec.validation is not None else None
    return settings.task_pods.of(version.metadata.namespace).validation.enabled if wish is None else wish


def verifier(version: ModelVersion, number: int, settings: Settings) -> Json:
    """A pod that reads every byte of the artifact and writes digest and size to its termination log.

    Where the version is tried too, a Triton runs beside it: the artifact is fetched once for both.
    """
    spec, meta = version.spec, version.metadata
    args = ["verify", "--uri", spec.source.uri, "--format", spec.format]
    if spec.digest is not None:
        args += ["--digest", spec.digest]
    volumes: list[Json] = []
    mounts: list[Json] = []
    if claim := names.claim_of(spec.source.uri):
        volumes.append({"name": "artifact", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "artifact", "mountPath": f"{names.CLAIMS_MOUNT}/{claim}", "readOnly": True})
    if spec.source.secret_ref is not None:
        secret = spec.source.secret_ref.name
        args += ["--secret", secret]
        # A Secret that is missing is the agent's to tell, by name: the kubelet would wait for it, ever longer.
        volumes.append({"name": "secret", "secret": {"secretName": secret, "optional": True}})
        mounts.append({"name": "secret", "mountPath": f"{names.SECRETS_MOUNT}/{secret}", "readOnly": True})
    beside: list[Json] = []
    if validates(version, settings):
        resources = _resources(version, settings)
        args += _trial(version, resources)
        mounts.append({"name": "repository", "mountPath": _REPOSITORY})
        volumes += [
            {"name": "repository", "emptyDir": {}},
            {"name": "triton-tmp", "emptyDir": {}},
            memory_volume("shm"),
        ]
        beside.append(_triton(settings, resources))
    return build(
        settings.task_pods.of(meta.namespace),
        beside=beside,
        metadata={
            "name": verifier_name(meta.name, number),
            "namespace": meta.namespace,
            "labels": {
                names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
                names.LABEL_MODEL_VERSION: meta.name,
                names.LABEL_ROLE: names.ROLE_VERIFY,
                names.LABEL_ATTEMPT: str(number),
            },
            "ownerReferences": [owner_reference(names.API_VERSION, "ModelVersion", meta.name, meta.uid)],
        },
        container={
            "name": "verify",
            "image": settings.agent_image,
            "args": args,
            **hub_environment(settings.hub_endpoint, spec.source.uri),
            "volumeMounts": mounts,
        },
        volumes=volumes,
    )


def _trial(version: ModelVersion, resources: Json) -> list[str]:
    """How the version is tried, in options of the agent."""
    wish = version.spec.validation or Validation()
    args = ["--triton", f"127.0.0.1:{names.TRITON_GRPC_PORT}", "--repository", _REPOSITORY]
    args += ["--model", version.spec.model, "--model-version", str(version.spec.version)]
    args += ["--timeout-seconds", str(wish.timeout_seconds or TIMEOUT_SECONDS)]
    if (limit := bytes_of(resources.get("limits", {}).get("memory"))) is not None:
        args += ["--memory", str(limit)]
    if wish.requests:
        args += ["--requests", requests_json(version)]
    return args


def requests_json(version: ModelVersion) -> str:
    """What the version is to be asked, as the agent is told it."""
    wish = version.spec.validation or Validation()
    return json.dumps([request.dump() for request in wish.requests], separators=(",", ":"))


def _resources(version: ModelVersion, settings: Settings) -> Json:
    """What Triton gets: what the version says before what the chart says."""
    usual = settings.task_pods.of(version.metadata.namespace).validation.resources
    wish = version.spec.validation.resources if version.spec.validation is not None else None
    own = wish.dump() if wish is not None else {}
    merged = {kind: {**usual.get(kind, {}), **own.get(kind, {})} for kind in ("requests", "limits")}
    # What is asked for may not be more than what is allowed, whichever of the two was written.
    for name, limit in own.get("limits", {}).items():
        if name in merged["requests"] and name not in own.get("requests", {}):
            merged["requests"][name] = limit
    return {kind: amounts for kind, amounts in merged.items() if amounts}


def _triton(settings: Settings, resources: Json) -> Json:
    """A Triton that nobody but the pod itself can reach."""
    return {
        "name": names.CONTAINER_TRITON,
        "image": settings.server_image,
        "env": [
            {"name": "AIFACTORY_ADDRESS", "value": "127.0.0.1"},
            {"name": "AIFACTORY_EXIT_TIMEOUT_SECONDS", "value": "0"},
            {"name": "AIFACTORY_TELL_MEMORY", "value": "true"},
            # An engine would take a share of the memory for its cache, and what the model needs could not be told.
            {"name": "AIFACTORY_ENGINE_CACHE_BYTES", "value": str(_CACHE_BYTES)},
        ],
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": resources,
        "volumeMounts": [
            {"name": "repository", "mountPath": _REPOSITORY},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "triton-tmp", "mountPath": "/tmp"},
        ],
    }
