"""The objects of an InferencePool, as the API server gets them.

Names: Service `<pool>`; Deployment and ConfigMap `<pool>-<revision>`, where the revision is a hash of everything that
shapes the pods. What a pod serves comes from its mounted ConfigMap, so a pod that restarts while operator and API
server are away still comes up with the right model.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.kube.podspec import Json, memory_volume, merge_named, owner_reference, restricted_pod
from aifactory.serving.state import Settings, VersionView

PRE_STOP_SECONDS = 15
DRAIN_TIMEOUT_SECONDS = 60
ANNOTATION_MODEL_VERSION = names.LABEL_MODEL_VERSION
ANNOTATION_VERSION = f"{names.GROUP}/version"

_HASH_LENGTH = 8
_DESIRED_MOUNT = "/etc/aifactory/desired"
_REPOSITORY = "/repository"


def revision_of(pool: InferencePool, version: VersionView, settings: Settings) -> str:
    """Hash of everything that shapes the pods, replicas aside."""
    shape = [_model(version), _pod_template(pool, version, settings, revision="")]
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def child_name(pool: str, revision: str) -> str:
    """Name of a revision's Deployment and ConfigMap."""
    return f"{pool}-{revision}"


def selector(pool: InferencePool) -> dict[str, str]:
    """Labels that select the serving pods of every revision."""
    return {names.LABEL_POOL: pool.metadata.name, names.LABEL_ROLE: names.ROLE_SERVE}


def service(pool: InferencePool) -> Json:
    """The address of the pool: every ready pod, whatever its revision."""
    ports = [
        {"name": "http", "port": names.TRITON_HTTP_PORT, "targetPort": "http", "appProtocol": "http"},
        {"name": "grpc", "port": names.TRITON_GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pool, pool.metadata.name, {}),
        "spec": {"selector": selector(pool), "ports": ports},
    }


def config(pool: InferencePool, version: VersionView, revision: str) -> Json:
    """What the agent of a revision's pods brings up."""
    desired = {"pool": pool.metadata.name, "revision": revision, "models": [_model(version)]}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(pool, child_name(pool.metadata.name, revision), {names.LABEL_REVISION: revision}),
        "immutable": True,
        "data": {"desired.json": json.dumps(desired, indent=1, sort_keys=True)},
    }


def deployment(pool: InferencePool, version: VersionView, settings: Settings, revision: str, replicas: int) -> Json:
    """A revision's pods."""
    labels = {names.LABEL_REVISION: revision}
    metadata = _metadata(pool, child_name(pool.metadata.name, revision), labels)
    metadata["annotations"] = {ANNOTATION_MODEL_VERSION: version.name, ANNOTATION_VERSION: str(version.version)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {**selector(pool), **labels}},
            "template": _pod_template(pool, version, settings, revision),
        },
    }


def _model(version: VersionView) -> Json:
    return {
        "name": version.model,
        "version": version.version,
        "uri": version.uri,
        "digest": version.digest,
        "format": version.format,
        "secret": version.secret,
    }


def _pod_template(pool: InferencePool, version: VersionView, settings: Settings, revision: str) -> Json:
    template = pool.spec.template
    spec: Json = template.raw_spec() if template is not None else {}
    meta = template.metadata if template is not None else None
    user_labels = dict(meta.labels or {}) if meta is not None else {}
    labels = {key: value for key, value in user_labels.items() if not key.startswith(names.RESERVED_LABEL_PREFIX)}
    labels |= {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE, **selector(pool)}
    if revision:
        labels[names.LABEL_REVISION] = revision

    theirs = {container["name"]: container for container in spec.get("containers", ())}
    triton = _triton(pool, theirs.pop(names.CONTAINER_TRITON, {}), settings)
    spec["containers"] = [triton, *theirs.values()]
    spec["initContainers"] = [_agent(version, settings), *spec.get("initContainers", ())]
    volumes = _volumes(version, child_name(pool.metadata.name, revision) if revision else "")
    spec["volumes"] = merge_named(spec.get("volumes", ()), volumes)
    pre_stop, timeout = drain_seconds(pool)
    spec["terminationGracePeriodSeconds"] = pre_stop + timeout
    metadata: Json = {"labels": labels}
    if meta is not None and meta.annotations:
        metadata["annotations"] = dict(meta.annotations)
    return {"metadata": metadata, "spec": restricted_pod(spec, names.RUN_AS_UID)}


def drain_seconds(pool: InferencePool) -> tuple[int, int]:
    """Seconds to wait before SIGTERM and seconds to finish requests after it."""
    drain = pool.spec.drain
    pre_stop = PRE_STOP_SECONDS if drain is None or drain.pre_stop_seconds is None else drain.pre_stop_seconds
    timeout = DRAIN_TIMEOUT_SECONDS if drain is None or drain.timeout_seconds is None else drain.timeout_seconds
    return pre_stop, timeout


def _triton(pool: InferencePool, theirs: Json, settings: Settings) -> Json:
    pre_stop, timeout = drain_seconds(pool)
    ours: Json = {
        "name": names.CONTAINER_TRITON,
        "image": settings.server_image,
        "env": [{"name": "AIFACTORY_EXIT_TIMEOUT_SECONDS", "value": str(timeout)}],
        "ports": [
            {"name": "http", "containerPort": names.TRITON_HTTP_PORT},
            {"name": "grpc", "containerPort": names.TRITON_GRPC_PORT},
            {"name": "metrics", "containerPort": names.TRITON_METRICS_PORT},
        ],
        # Whether the process lives; whether the pod may have traffic is the agent's to say.
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http"},
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "securityContext": {"readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "aifactory-repository", "mountPath": _REPOSITORY},
            {"name": "aifactory-shm", "mountPath": "/dev/shm"},
            {"name": "aifactory-tmp", "mountPath": "/tmp"},
        ],
    }
    if pre_stop:
        # Out of the endpoints first, SIGTERM later: Triton keeps answering until every proxy has heard.
        ours["lifecycle"] = {"preStop": {"sleep": {"seconds": pre_stop}}}
    merged = {**ours, **theirs}
    merged["env"] = merge_named(ours["env"], theirs.get("env", ()))
    # The Service finds Triton by the names of its ports, and draining must outlive a postStart hook of the user.
    merged["ports"] = merge_named(theirs.get("ports", ()), ours["ports"], key="containerPort")
    if lifecycle := {**ours.get("lifecycle", {}), **theirs.get("lifecycle", {})}:
        merged["lifecycle"] = lifecycle
    merged["volumeMounts"] = merge_named(theirs.get("volumeMounts", ()), ours["volumeMounts"], key="mountPath")
    return merged


def _agent(version: VersionView, settings: Settings) -> Json:
    mounts: list[Json] = [
        {"name": "aifactory-repository", "mountPath": _REPOSITORY},
        {"name": "aifactory-desired", "mountPath": _DESIRED_MOUNT, "readOnly": True},
        {"name": "aifactory-agent-tmp", "mountPath": "/tmp"},
    ]
    if (claim := _claim(version)) is not None:
        mounts.append({"name": "aifactory-models", "mountPath": f"{names.CLAIMS_MOUNT}/{claim}", "readOnly": True})
    if version.secret is not None:
        path = f"{names.SECRETS_MOUNT}/{version.secret}"
        mounts.append({"name": "aifactory-secret", "mountPath": path, "readOnly": True})
    args = ["serve", "--desired", f"{_DESIRED_MOUNT}/desired.json", "--repository", _REPOSITORY]
    args += ["--triton", f"localhost:{names.TRITON_GRPC_PORT}", "--port", str(names.AGENT_PORT)]
    return {
        "name": names.CONTAINER_AGENT,
        "image": settings.agent_image,
        # A native sidecar: it starts before Triton and ends after it.
        "restartPolicy": "Always",
        "args": args,
        "ports": [{"name": "agent", "containerPort": names.AGENT_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "agent"},
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "volumeMounts": mounts,
    }


def _volumes(version: VersionView, config_name: str) -> list[Json]:
    volumes: list[Json] = [
        {"name": "aifactory-repository", "emptyDir": {}},
        {"name": "aifactory-desired", "configMap": {"name": config_name}},
        {"name": "aifactory-tmp", "emptyDir": {}},
        {"name": "aifactory-agent-tmp", "emptyDir": {}},
        memory_volume("aifactory-shm"),
    ]
    if (claim := _claim(version)) is not None:
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": "aifactory-models", "persistentVolumeClaim": source})
    if version.secret is not None:
        volumes.append({"name": "aifactory-secret", "secret": {"secretName": version.secret}})
    return volumes


def _claim(version: VersionView) -> str | None:
    if not version.uri.startswith("pvc://"):
        return None
    return version.uri.removeprefix("pvc://").partition("/")[0]


def _metadata(pool: InferencePool, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Metadata of a child: an allow-list of labels, never a copy of the pool's (Argo CD prunes copies)."""
    return {
        "name": name,
        "namespace": pool.metadata.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
            names.LABEL_POOL: pool.metadata.name,
            **labels,
        },
        "ownerReferences": [owner_reference(names.API_VERSION, "InferencePool", pool.metadata.name, pool.metadata.uid)],
    }
