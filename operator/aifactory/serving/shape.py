"""What a serving pod is: its template, and the hash by which pods of one revision are told from those of another.

A revision's name has two hashes: what its pods are, and what they are told to serve. Revisions that differ in the
second alone can be served by the same pods, one after the other (`swap`); a set of pods is called after the first
revision that it was made for.

The hashes are over named parts of what users wrote and of what the installation chose, never over the rendered
template: an operator that renders it differently changes no pod. A change that pods must not be without gets a new
version of the shape; when the installation's image changes, pools roll a few at a time (`traffic.waits_for_turn`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

from aifactory.api import names
from aifactory.api.inferencepool import Engine, InferencePool, RevisionStatus
from aifactory.engine.apply import content_hash
from aifactory.engine.podspec import Json, memory_volume, merge_mounts, merge_named, restricted_pod
from aifactory.engine.taskpods import hub_environment
from aifactory.serving import assignment, disruption
from aifactory.serving.objects import child_name, metadata, selector
from aifactory.serving.state import Settings, VersionView

PRE_STOP_SECONDS = 15
DRAIN_TIMEOUT_SECONDS = 60
ANNOTATION_MODEL_VERSION = names.LABEL_MODEL_VERSION
ANNOTATION_VERSION = f"{names.GROUP}/version"
ANNOTATION_ROOM = f"{names.GROUP}/repository-bytes"
"""On a Deployment: how much its pods' volume for models holds."""

_HASH_LENGTH = 8
_WISHES: Final = tuple("" if engine == "auto" else engine for engine in get_args(Engine))
_MEBIBYTE = 1024 * 1024
_SPARE_MEBIBYTES = 256
"""Beside the model: what Triton and the agent write into the repository."""
_DESIRED_MOUNT = "/etc/aifactory/desired"
_REPOSITORY = "/repository"


def _parts(pool: InferencePool, image: str) -> Json:
    template = pool.spec.template
    return {
        "template": template.dump() if template is not None else {},
        "drain": list(drain_seconds(pool)),
        "image": image,
    }


def _v1(pool: InferencePool, version: VersionView, image: str) -> str:
    """One hash of all: pods that were made so serve nothing else."""
    served = assignment.identity(assignment.engine_wish(pool), version)
    return _hash({"shape": _parts(pool, image), "assignment": served})


def _v2(pool: InferencePool, version: VersionView, image: str) -> str:
    engine = assignment.engine_wish(pool)
    pods = {
        **_parts(pool, image),
        "model": version.model,
        "format": version.format,
        "engine": engine,
        "claim": version.claim,
        "secret": version.secret,
        "hub": _is_of_hub(version.uri),
    }
    if version.beside is not None:
        # Which models they are is no part of it: pods that have what one needs take it up as they are.
        pods = {
            **_parts(pool, image),
            "several": True,
            "engine": engine,
            "claims": _claims(version),
            "secrets": _secrets(version),
            "hub": any(_is_of_hub(each.uri) for each in version.held),
            "openai": _has_text(version),
            **({"onDemand": True} if pool.spec.loads_on_demand else {}),
        }
    return f"{_hash(pods)}-{_hash(assignment.identity(engine, version))}"


SHAPES: Final[dict[str, Callable[[InferencePool, VersionView, str], str]]] = {"v1": _v1, "v2": _v2}
"""Names of revisions, by version. Earlier versions stay while pods of theirs may run."""
CURRENT: Final = "v2"


def image_of(pool: InferencePool, settings: Settings) -> str:
    """Image of Triton: the template's own, or the installation's."""
    own: Any = template_container(pool, names.CONTAINER_TRITON).get("image")
    return str(own or settings.server_image)


def revision_of(pool: InferencePool, version: VersionView, image: str, shape: str = CURRENT) -> str:
    """Name of a version in pods of the pool: `v2-` and hashes of what the pods are and of what they are told to serve.

    An empty string where the version of the shape is not known here.
    """
    named = SHAPES.get(shape)
    return f"{shape}-{named(pool, version, image)}" if named is not None else ""


def pods_of(revision: str) -> str:
    """What two revisions have in common that the same pods can serve."""
    parts = revision.split("-")
    return "-".join(parts[:2]) if parts[0] == CURRENT else revision


def assigns(revision: str, version: VersionView) -> bool:
    """Whether that is the version that the revision serves, whatever its pods and the pool's wish are."""
    return engine_of(revision, version) is not None


def engine_of(revision: str, version: VersionView) -> str | None:
    """The engine that a revision of the version insists on, "" for none; None if it is not of this version."""
    parts = revision.split("-")
    found = (wish for wish in _WISHES if parts[0] == CURRENT and parts[2] == _hash(assignment.identity(wish, version)))
    return next(found, None)


def is_outdated(stable: RevisionStatus, image: str) -> bool:
    """Whether a revision would be made in another way today, though nobody has changed the pool."""
    return bool(stable.revision) and (stable.image != image or shape_version(stable.revision) not in SHAPES)


def _hash(parts: Json) -> str:
    return content_hash(parts)[:_HASH_LENGTH]


def shape_version(revision: str) -> str:
    """The version of the shape that a revision was made by."""
    return revision.partition("-")[0]


def deployment(
    pool: InferencePool,
    version: VersionView,
    settings: Settings,
    revision: str,
    image: str,
    replicas: int,
    role: str = names.ROLE_SERVE,
) -> Json:
    """A set of pods, called after the revision that it is made for; by their role they are led to or not."""
    pods = {**selector(pool, role), names.LABEL_REVISION: revision}
    labels = {names.LABEL_REVISION: revision, **({names.LABEL_ROLE: role} if role != names.ROLE_SERVE else {})}
    meta = metadata(pool, child_name(pool.metadata.name, revision), labels)
    meta["annotations"] = {ANNOTATION_MODEL_VERSION: version.title, ANNOTATION_VERSION: numbers(version)}
    if (room := repository_bytes(version)) is not None:
        meta["annotations"][ANNOTATION_ROOM] = str(room)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": pods},
            "template": _pod_template(pool, version, settings, pods, image),
        },
    }


def drain_seconds(pool: InferencePool) -> tuple[int, int]:
    """Seconds to wait before SIGTERM and seconds to finish requests after it."""
    drain = pool.spec.drain
    pre_stop = PRE_STOP_SECONDS if drain is None or drain.pre_stop_seconds is None else drain.pre_stop_seconds
    timeout = DRAIN_TIMEOUT_SECONDS if drain is None or drain.timeout_seconds is None else drain.timeout_seconds
    return pre_stop, timeout


def may_have_gpus(pool: InferencePool) -> bool:
    """Whether pods may have a GPU: as a device of any name, by a claim, or by a runtime class."""
    spec = pool.spec.template.raw_spec() if pool.spec.template is not None else {}
    resources = template_container(pool, names.CONTAINER_TRITON).get("resources") or {}
    asked = (*(resources.get("limits") or ()), *(resources.get("requests") or ()))
    # Only what a device plugin or its like offers has a domain in its name.
    devices = any("/" in name for name in asked) or resources.get("claims")
    return bool(devices or spec.get("runtimeClassName"))


def template_container(pool: InferencePool, name: str) -> Json:
    """A container of the pool's template, as the user wrote it; empty if it is not there."""
    spec = pool.spec.template.raw_spec() if pool.spec.template is not None else {}
    return next((dict(container) for container in spec.get("containers", ()) if container["name"] == name), {})


def _pod_template(
    pool: InferencePool, version: VersionView, settings: Settings, own_labels: dict[str, str], image: str
) -> Json:
    template = pool.spec.template
    spec: Json = template.raw_spec() if template is not None else {}
    meta = template.metadata if template is not None else None
    user_labels = dict(meta.labels or {}) if meta is not None else {}
    labels = {key: value for key, value in user_labels.items() if not key.startswith(names.RESERVED_LABEL_PREFIX)}
    labels |= {names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE, **own_labels}

    theirs = {container["name"]: container for container in spec.get("containers", ())}
    triton = _triton(pool, theirs.pop(names.CONTAINER_TRITON, {}), image)
    spec["containers"] = [triton, *theirs.values()]
    openai = _openai(settings, on_demand=pool.spec.loads_on_demand)
    ours = [_agent(version, settings), *([openai] if _has_text(version) else [])]
    spec["initContainers"] = [*ours, *spec.get("initContainers", ())]
    for container in (*spec["containers"], *spec["initContainers"]):
        # The last words of one that crashes are then in the pod's status, from where they get into the pool's.
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    volumes = _volumes(version, child_name(pool.metadata.name, own_labels[names.LABEL_REVISION]))
    spec["volumes"] = merge_named(spec.get("volumes", ()), volumes)
    # An empty list in the template means: wherever there is room.
    spec.setdefault("topologySpreadConstraints", disruption.spread(own_labels))
    pre_stop, timeout = drain_seconds(pool)
    spec.setdefault("terminationGracePeriodSeconds", pre_stop + timeout)
    if spec.get("hostNetwork"):  # else such a pod asks the node's resolver, which knows no Service
        spec.setdefault("dnsPolicy", "ClusterFirstWithHostNet")
    pod: Json = {"labels": labels}
    if meta is not None and meta.annotations:
        pod["annotations"] = dict(meta.annotations)
    return {"metadata": pod, "spec": restricted_pod(spec, names.RUN_AS_UID)}


def _triton(pool: InferencePool, theirs: Json, image: str) -> Json:
    pre_stop, timeout = drain_seconds(pool)
    ours: Json = {
        "name": names.CONTAINER_TRITON,
        "image": image,
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
    merged["volumeMounts"] = merge_mounts(theirs.get("volumeMounts", ()), ours["volumeMounts"], ("/dev/shm", "/tmp"))
    return merged


def _agent(version: VersionView, settings: Settings) -> Json:
    mounts: list[Json] = [
        {"name": "aifactory-repository", "mountPath": _REPOSITORY},
        {"name": "aifactory-desired", "mountPath": _DESIRED_MOUNT, "readOnly": True},
        {"name": "aifactory-agent-tmp", "mountPath": "/tmp"},
    ]
    for number, claim in enumerate(_claims(version)):
        path = f"{names.CLAIMS_MOUNT}/{claim}"
        mounts.append({"name": _numbered("aifactory-models", number), "mountPath": path, "readOnly": True})
    for number, secret in enumerate(_secrets(version)):
        path = f"{names.SECRETS_MOUNT}/{secret}"
        mounts.append({"name": _numbered("aifactory-secret", number), "mountPath": path, "readOnly": True})
    requests = {"cpu": "50m", "memory": "128Mi"}
    if (size := _repository_size(version)) is not None:
        # The scheduler finds a node with that much disk; else the kubelet would evict pods, this one or others.
        requests["ephemeral-storage"] = size
    uris = [each.uri for each in version.held]
    args = ["serve", "--desired", f"{_DESIRED_MOUNT}/desired.json", "--repository", _REPOSITORY]
    args += ["--triton", f"localhost:{names.TRITON_GRPC_PORT}", "--port", str(names.AGENT_PORT)]
    return {
        "name": names.CONTAINER_AGENT,
        "image": settings.agent_image,
        # A native sidecar: it starts before Triton and ends after it.
        "restartPolicy": "Always",
        "args": args,
        **hub_environment(settings.hub_endpoint, next(filter(_is_of_hub, uris), uris[0])),
        "ports": [{"name": "agent", "containerPort": names.AGENT_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "agent"},
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"requests": requests},
        "volumeMounts": mounts,
    }


def _openai(settings: Settings, *, on_demand: bool) -> Json:
    """OpenAI's API, in front of Triton.

    A container of its own, with the agent's image: it answers while Triton restarts, and what prompts cost it on the
    CPU and in memory is neither Triton's nor the agent's. It depends on the version's format, which is part of the
    assignment and so of the revision's name.
    """
    probe = {"httpGet": {"path": "/healthz", "port": "openai"}, "timeoutSeconds": 5}
    args = ["openai", "--repository", _REPOSITORY, "--triton", f"localhost:{names.TRITON_GRPC_PORT}"]
    return {
        "name": names.CONTAINER_OPENAI,
        "image": settings.agent_image,
        # A native sidecar: it ends after Triton, so that answers under way are told to their end.
        "restartPolicy": "Always",
        "args": [*args, "--port", str(names.OPENAI_PORT), *(["--on-demand"] if on_demand else [])],
        "ports": [{"name": "openai", "containerPort": names.OPENAI_PORT}],
        # Whether this process answers; whether the models do is the agent's to say.
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": {"readOnlyRootFilesystem": True},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "aifactory-repository", "mountPath": _REPOSITORY, "readOnly": True}],
    }


def repository_bytes(version: VersionView) -> int | None:
    """Room for the models on the node's disk, and for others of their size, which may come in their places.

    It is no part of the revision's name: an artifact's size never changes, and pods that an earlier release has made
    without it stay. None where the size is not known.
    """
    sizes = [each.size_bytes for each in version.held if each.size_bytes is not None]
    if len(sizes) < len(version.held):
        return None
    return (-(-2 * sum(sizes) // _MEBIBYTE) + _SPARE_MEBIBYTES) * _MEBIBYTE


def _repository_size(version: VersionView) -> str | None:
    room = repository_bytes(version)
    return f"{room // _MEBIBYTE}Mi" if room is not None else None


def _volumes(version: VersionView, config_name: str) -> list[Json]:
    size = _repository_size(version)
    volumes: list[Json] = [
        {"name": "aifactory-repository", "emptyDir": {"sizeLimit": size} if size is not None else {}},
        {"name": "aifactory-desired", "configMap": {"name": config_name}},
        {"name": "aifactory-tmp", "emptyDir": {}},
        {"name": "aifactory-agent-tmp", "emptyDir": {}},
        memory_volume("aifactory-shm"),
    ]
    for number, claim in enumerate(_claims(version)):
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": _numbered("aifactory-models", number), "persistentVolumeClaim": source})
    for number, secret in enumerate(_secrets(version)):
        volumes.append({"name": _numbered("aifactory-secret", number), "secret": {"secretName": secret}})
    return volumes


def _claims(version: VersionView) -> list[str]:
    """The claims in which what the pods hold lies."""
    return sorted({each.claim for each in version.held if each.claim is not None})


def _secrets(version: VersionView) -> list[str]:
    """The Secrets with which what the pods hold is fetched."""
    return sorted({each.secret for each in version.held if each.secret is not None})


def _has_text(version: VersionView) -> bool:
    return any(each.generates_text for each in version.held)


def _is_of_hub(uri: str) -> bool:
    return uri.startswith("hf://")


def _numbered(name: str, number: int) -> str:
    """Of several volumes of a kind the first one has the name alone."""
    return f"{name}-{number}" if number else name


def numbers(version: VersionView) -> str:
    """What is served, for a column: the version's number, or of several models `name@number` of each."""
    if version.beside is None:
        return str(version.version)
    return ", ".join(f"{each.model}@{each.version}" for each in version.all)
