"""The part of a pod template that we merge or validate; everything else belongs to Kubernetes.

A full PodSpec schema costs hundreds of kilobytes per CRD (JobSet: 824 kB), more than `kubectl apply` can carry in its
annotation. So only the fields below are typed, the rest is preserved as written, and the API server checks it in strict
mode when the first pod is created: its words then appear in the object's `Stalled` condition.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from aifactory.api.base import FreeForm, Model, Quantity

PRESERVE: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}


class EnvVar(Model):
    """An environment variable."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    value: str | None = None


class Resources(Model):
    """Compute resources; ask for GPUs under `limits`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    limits: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None
    requests: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None


class Container(Model):
    """A container; fields that are not listed here are passed on as written."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    name: Annotated[str, Field(min_length=1, max_length=63)]
    image: Annotated[str, Field(max_length=1024)] | None = None
    command: Annotated[tuple[str, ...], Field(max_length=256)] | None = None
    args: Annotated[tuple[str, ...], Field(max_length=256)] | None = None
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
    resources: Resources | None = None


Containers = Annotated[
    tuple[Container, ...],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
]


class PodSpec(Model):
    """A pod's spec; fields that are not listed here are passed on as written."""

    model_config = ConfigDict(extra="allow", json_schema_extra=PRESERVE)

    containers: Containers | None = None
    init_containers: Containers | None = None
    volumes: Annotated[tuple[FreeForm, ...], Field(max_length=64)] | None = None


class TemplateMeta(Model):
    """Labels and annotations for the pods. Keys under `aifactory.dev/` are ours."""

    labels: Annotated[dict[str, str], Field(max_length=64)] | None = None
    annotations: Annotated[dict[str, str], Field(max_length=64)] | None = None


class PodTemplate(Model):
    """A pod template."""

    metadata: TemplateMeta | None = None
    spec: PodSpec | None = None

    def raw_spec(self) -> dict[str, Any]:
        """The pod spec as the user wrote it."""
        return self.spec.dump() if self.spec is not None else {}
