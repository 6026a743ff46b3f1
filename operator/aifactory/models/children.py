"""The pod that checks an artifact, as the API server gets it."""

from __future__ import annotations

from aifactory.api import names, numbers
from aifactory.api.modelversion import ModelVersion
from aifactory.engine.podspec import Json, owner_reference
from aifactory.engine.taskpods import TaskSettings, build, hub_environment


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


def verifier(version: ModelVersion, number: int, settings: TaskSettings) -> Json:
    """A pod that reads every byte of the artifact and writes digest and size to its termination log."""
    spec, meta = version.spec, version.metadata
    args = ["verify", "--uri", spec.source.uri, "--format", spec.format]
    if spec.digest is not None:
        args += ["--digest", spec.digest]
    volumes: list[Json] = []
    mounts: list[Json] = []
    if spec.source.uri.startswith("pvc://"):
        claim = spec.source.uri.removeprefix("pvc://").partition("/")[0]
        volumes.append({"name": "artifact", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "artifact", "mountPath": f"{names.CLAIMS_MOUNT}/{claim}", "readOnly": True})
    if spec.source.secret_ref is not None:
        secret = spec.source.secret_ref.name
        args += ["--secret", secret]
        # A Secret that is missing is the agent's to tell, by name: the kubelet would wait for it, ever longer.
        volumes.append({"name": "secret", "secret": {"secretName": secret, "optional": True}})
        mounts.append({"name": "secret", "mountPath": f"{names.SECRETS_MOUNT}/{secret}", "readOnly": True})
    return build(
        settings.task_pods.of(meta.namespace),
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
