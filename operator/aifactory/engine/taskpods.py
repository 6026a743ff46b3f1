"""How pods of tasks are made: what the installation says about them, by namespace, and Pod Security `restricted`.

A platform team knows what its clusters need of every pod (pull secrets, tolerations of the only nodes there are, a
service account, labels that a cost report wants) and users should not have to repeat it for pods that they did not ask
for. So the chart's `taskPods` says it once for all namespaces and, where one differs, for that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from aifactory.api import names
from aifactory.engine.domain import option
from aifactory.engine.podspec import Json, restricted_pod

RESOURCES: Json = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
"""With limits, because a namespace with a quota may ask for them of every container, and its LimitRange may set some
that are too small. Copying and checking work in pieces, whatever the size of the model."""
TIME_LIMIT_SECONDS = 24 * 3600
"""A copy that takes longer hangs."""


_GRACE_SECONDS = 5
"""For what runs beside a task that has answered."""
TASK_PODS_HELP = "YAML file with settings for the pods of tasks (the chart's taskPods)"
AGENT_HELP = "image with aifactory-agent: publishes, checks, loads"
SERVER_HELP = "image with Triton and the back ends"
HUB_HELP = "URL of the hub that hf:// stands for (the chart's hub.endpoint); left out: https://huggingface.co"
_HUB_VARIABLE = "HF_ENDPOINT"
"""What huggingface_hub, and so the agent, reads it from; a Secret with that key goes before it."""


class TaskPodError(ValueError):
    """The file with the settings can not be used; the message names the field."""


VALIDATION: Json = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
"""Of the Triton in which a version is tried. It takes what a load takes, for some seconds. Also of a training program
that looks at its inputs."""
CHECK_SECONDS = 600
"""A check that takes longer holds up its job more than a mistake would cost."""


class ValidationDefaults(BaseModel):
    """Whether versions are tried before they are Ready, and with what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    resources: dict[str, dict[str, Any]] = VALIDATION


class CheckDefaults(BaseModel):
    """Whether training programs of ours are asked ahead of training what is in the way, and with what."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    enabled: bool = True
    resources: dict[str, dict[str, Any]] = VALIDATION
    active_deadline_seconds: Annotated[int, Field(ge=1)] = CHECK_SECONDS


class TaskPodDefaults(BaseModel):
    """What the pods of tasks get; the names are those of a pod."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    image_pull_secrets: tuple[dict[str, str], ...] = ()
    tolerations: tuple[dict[str, Any], ...] = ()
    node_selector: dict[str, str] = {}
    service_account_name: str = ""
    priority_class_name: str = ""
    resources: dict[str, Any] = RESOURCES
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    active_deadline_seconds: Annotated[int, Field(ge=1)] = TIME_LIMIT_SECONDS
    validation: ValidationDefaults = ValidationDefaults()
    check: CheckDefaults = CheckDefaults()


class TaskPods(BaseModel):
    """Defaults for all namespaces, and for single ones what differs there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: TaskPodDefaults = TaskPodDefaults()
    namespaces: dict[str, TaskPodDefaults] = {}

    def of(self, namespace: str) -> TaskPodDefaults:
        """What holds in a namespace: a field that is set for it replaces the one for all."""
        own = self.namespaces.get(namespace)
        if own is None:
            return self.defaults
        return self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What the installation decides for domains that have tasks."""

    agent_image: str = option(names.image("agent"), AGENT_HELP)
    task_pods: TaskPods = option(TaskPods(), TASK_PODS_HELP, parse=lambda path: read(path))
    hub_endpoint: str = option("", HUB_HELP, parse=lambda text: hub_url(text))


def hub_url(text: str) -> str:
    """The address of a hub, as it is given to pods; "" stands for the one that everybody knows. Raises ValueError."""
    url = text.strip().rstrip("/")
    parts = urlsplit(url)
    if url and (parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query):
        raise ValueError(f"hub.endpoint: {text!r} is no address of a hub: write https://<host>, without user and query")
    return url


def hub_environment(endpoint: str, uri: str) -> Json:
    """The part of a container that says which hub it asks: of one that reads `uri`, nothing if that is no hub's."""
    if not endpoint or not uri.startswith("hf://"):
        return {}
    return {"env": [{"name": _HUB_VARIABLE, "value": endpoint}]}


def read(path: str) -> TaskPods:
    """The settings in a YAML file; "" stands for none.

    Raises:
        TaskPodError: the file is missing, or says something that no pod of a task can have.
    """
    if not path:
        return TaskPods()
    try:
        return TaskPods.model_validate(yaml.safe_load(Path(path).read_text()) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TaskPodError(f"{path}: taskPods.{where}: {first['msg']}") from error
    except (OSError, yaml.YAMLError) as error:
        raise TaskPodError(f"{path}: {error}") from error


def build(
    defaults: TaskPodDefaults,
    *,
    metadata: Mapping[str, Any],
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    like: Mapping[str, Any] | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
) -> Json:
    """A pod of a task.

    Args:
        defaults: what the installation says for its namespace.
        metadata: name, namespace, labels and owner.
        container: the one that does the work; its root file system is made read-only, with /tmp to write to.
        volumes: what the container mounts.
        beside: containers that are started before it and end with it; they bring their own resources.
        like: spec of a pod whose files it reads: its user and groups, pull secrets and tolerations are taken over.
    """
    like = like or {}
    spec: Json = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": defaults.active_deadline_seconds,
        "containers": [
            {
                **container,
                "volumeMounts": [*container.get("volumeMounts", ()), {"name": "tmp", "mountPath": "/tmp"}],
                "securityContext": {"readOnlyRootFilesystem": True},
                "resources": defaults.resources,
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
        "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
    }
    if beside:
        spec["initContainers"] = [
            {**each, "restartPolicy": "Always", "terminationMessagePolicy": "FallbackToLogsOnError"} for each in beside
        ]
        spec["terminationGracePeriodSeconds"] = _GRACE_SECONDS
    spec |= placement(defaults, like)
    if context := _identity(like):
        spec["securityContext"] = context
    return task_object(defaults, metadata, spec)


def placement(defaults: TaskPodDefaults, like: Mapping[str, Any]) -> Json:
    """The fields of a pod of a task that say where it may run, and as whom in the cluster.

    Args:
        like: see `build`.
    """
    spec: Json = {}
    if secrets := _merged(like.get("imagePullSecrets", ()), defaults.image_pull_secrets):
        spec["imagePullSecrets"] = secrets
    if tolerations := _merged(like.get("tolerations", ()), defaults.tolerations):
        spec["tolerations"] = tolerations
    if defaults.node_selector:
        spec["nodeSelector"] = defaults.node_selector
    if defaults.service_account_name:
        spec["serviceAccountName"] = defaults.service_account_name
        spec["automountServiceAccountToken"] = False
    if defaults.priority_class_name:
        spec["priorityClassName"] = defaults.priority_class_name
    return spec


def task_object(defaults: TaskPodDefaults, metadata: Mapping[str, Any], spec: Json) -> Json:
    """The pod of a task with this spec, which is made to pass Pod Security `restricted`."""
    full = {**metadata, "labels": {**defaults.labels, **metadata["labels"]}}
    if defaults.annotations:
        full["annotations"] = defaults.annotations
    return {"apiVersion": "v1", "kind": "Pod", "metadata": full, "spec": restricted_pod(spec, names.RUN_AS_UID)}


def _identity(like: Mapping[str, Any]) -> Json:
    """User and groups of another pod's main container: what it wrote, they may read."""
    context = dict(like.get("securityContext") or {})
    trainer: Json = next((c for c in like.get("containers", ()) if c.get("name") == names.CONTAINER_TRAINER), {})
    own = trainer.get("securityContext") or {}
    context |= {name: own[name] for name in ("runAsUser", "runAsGroup", "runAsNonRoot") if name in own}
    kept = ("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "fsGroupChangePolicy", "supplementalGroups")
    return {name: context[name] for name in (*kept, "seLinuxOptions") if name in context}


def _merged(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[Json]:
    return [dict(entry) for entry in first] + [dict(entry) for entry in second if entry not in first]
