"""The part of a pod template that we merge or validate; everything else belongs to Kubernetes.

A full PodSpec schema costs hundreds of kilobytes per CRD (JobSet: 824 kB), more than `kubectl apply` can carry in its
annotation. So only the fields below are typed, the rest is preserved as written, and the API server checks it in strict
mode when the first pod is created: its words then appear in the object's `Stalled` condition.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from aifactory.api.base import FreeForm, Model, ResourceAmount
from aifactory.api.rules import rule

PRESERVE: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}


class EnvVar(Model):
    """An environment variable."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the variable."""
    value: str | None = None
    """Value; $(OTHER) is replaced, also by variables that the operator sets."""


class VolumeMount(Model):
    """A volume at a path of the container."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of one of the pod's volumes."""
    mount_path: Annotated[str, Field(min_length=1, max_length=4096)]
    """Path in the container."""


class ContainerPort(Model):
    """A port the container listens on."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    container_port: Annotated[int, Field(ge=1, le=65_535)]
    """Number of the port."""


class Volume(Model):
    """A volume of the pod, of any of Kubernetes' types."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=PRESERVE
        | {
            "x-kubernetes-validations": [
                rule(
                    "!self.name.startsWith('aifactory-')",
                    "names of volumes that begin with aifactory- are the operator's: choose another name",
                )
            ]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name for volumeMounts. Names that begin with aifactory- are ours."""


class Resources(Model):
    """Compute resources; ask for GPUs under `limits`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    limits: Annotated[dict[str, ResourceAmount], Field(max_length=32)] | None = None
    """Most of each resource that the container may use."""
    requests: Annotated[dict[str, ResourceAmount], Field(max_length=32)] | None = None
    """What a node must have free for the container."""


class Container(Model):
    """A container; fields that are not listed here are passed on as written."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the container."""
    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image to run."""
    command: Annotated[tuple[str, ...], Field(max_length=256)] | None = None
    """Program and its first arguments; left out: the image's entrypoint."""
    args: Annotated[tuple[str, ...], Field(max_length=256)] | None = None
    """Further arguments."""
    env: (
        Annotated[
            tuple[EnvVar, ...],
            Field(
                max_length=128,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Environment variables."""
    resources: Resources | None = None
    volume_mounts: (
        Annotated[
            tuple[VolumeMount, ...],
            Field(
                max_length=64,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mountPath"]},
            ),
        ]
        | None
    ) = None
    """Volumes in the container."""
    ports: (
        Annotated[
            tuple[ContainerPort, ...],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Ports the container listens on; those of Triton are added."""
    restart_policy: Annotated[str, Field(max_length=63)] | None = None
    """Always makes an init container run beside the others. Of a TrainingJob's `trainer` it can not be set."""
    lifecycle: FreeForm | None = None
    """Hooks; a preStop hook of `triton` replaces the wait that drains its requests."""
    security_context: FreeForm | None = None
    """Security settings; what Pod Security `restricted` asks for is filled in where it is left out."""


Containers = Annotated[
    tuple[Container, ...],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
]


class PodSpec(Model):
    """A pod's spec; fields that are not listed here are passed on as written."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    containers: Containers | None = None
    """Containers of the pod."""
    init_containers: Containers | None = None
    """Containers that run before the others, or beside them with restartPolicy: Always."""
    volumes: (
        Annotated[
            tuple[Volume, ...],
            Field(
                max_length=64,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Volumes of the pod."""
    restart_policy: Annotated[str, Field(max_length=63)] | None = None
    """Of a TrainingJob's pods Never: another one is refused there."""
    hostname: Annotated[str, Field(max_length=63)] | None = None
    """Of a TrainingJob's pods their own names: pods find each other by it. It can not be set there."""
    subdomain: Annotated[str, Field(max_length=63)] | None = None
    """Of a TrainingJob's pods its Service. It can not be set there."""
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds between SIGTERM and SIGKILL; of a TrainingJob 120 where it is left out. Of a pool's pods it is the sum of
    spec.drain, and can not be set."""
    security_context: FreeForm | None = None
    """Security settings of the pod; what Pod Security `restricted` asks for is filled in where it is left out."""


class TemplateMeta(Model):
    """Labels and annotations for the pods. Keys under `aifactory.dev/` are ours."""

    labels: Annotated[dict[str, str], Field(max_length=64)] | None = None
    """Labels for the pods."""
    annotations: Annotated[dict[str, str], Field(max_length=64)] | None = None
    """Annotations for the pods."""


class PodTemplate(Model):
    """A pod template."""

    metadata: TemplateMeta | None = None
    spec: PodSpec | None = None

    def raw_spec(self) -> dict[str, Any]:
        """The pod spec as the user wrote it."""
        return self.spec.dump() if self.spec is not None else {}
