"""The CRDs, rendered from the models; `make generate` writes them to `crds/`.

Columns are what a tired person sees in `kubectl get`; they read plain status fields because a JSONPath column cannot
compute. Each rendered CRD stays under 100 kB so that client-side `kubectl apply` can carry it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from aifactory.api import names
from aifactory.api.base import MODEL_NAME, CustomResource
from aifactory.api.inferencepool import DEFAULT_REPLICAS, InferencePool
from aifactory.api.modelversion import ModelVersion
from aifactory.api.schema import structural_schema
from aifactory.api.trainingjob import TrainingJob

HEADER = "# Generated from operator/aifactory/api by `make generate`. Do not edit.\n"


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False

    def render(self) -> dict[str, Any]:
        """As `additionalPrinterColumns` wants it; priority 1 is shown with `-o wide` only."""
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.wide:
            column["priority"] = 1
        return column


@dataclass(frozen=True)
class KindDefinition:
    """One kind: its model and how it is shown."""

    model: type[CustomResource]
    short: str
    columns: tuple[Column, ...]
    scale: dict[str, str] | None = None
    default_scale: int | None = None
    """What the API server takes for the number of replicas where it is left out: the one default in a spec of ours.

    The scale subresource has no answer for an object without the field ("the spec replicas field does not exist"), so
    it could not be scaled, least of all by a HorizontalPodAutoscaler, whose manifests leave it out. There is no other
    way: a scale path must lie in the spec. Deployments do the same.
    """
    name_pattern: str = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
    """Of `metadata.name`; a Service is named after jobs and pools, and its name has no dots."""
    selectable: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> str:
        """The kind's name."""
        return self.model.__name__

    @property
    def plural(self) -> str:
        """As in its path on the API server."""
        return self.model.plural

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{names.GROUP}"


def _condition(kind: str, what: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{what}'


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_SCALE_SELECTOR = ".status.selector"

KINDS = (
    KindDefinition(
        TrainingJob,
        short="tjob",
        columns=(
            Column("Phase", ".status.phase"),
            Column("Nodes", ".status.nodes.summary"),
            Column("Progress", ".status.progress.summary"),
            Column("Loss", ".status.progress.loss"),
            Column("Restarts", ".status.restarts.total", "integer"),
            Column("Reason", ".status.reason"),
            _AGE,
            Column("Tokens/s", ".status.progress.tokensPerSecond", wide=True),
            Column("ETA", ".status.progress.eta", wide=True),
            Column("Attempt", ".status.attempt", "integer", wide=True),
            Column("Queue", r".metadata.labels.kueue\.x-k8s\.io/queue-name", wide=True),
            Column("Model", ".status.output.modelVersion", wide=True),
            Column("Cost", ".status.cost.cost", wide=True),
            Column("Goodput", ".status.cost.goodput", wide=True),
        ),
        scale={
            "specReplicasPath": ".spec.nodes.count",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": _SCALE_SELECTOR,
        },
    ),
    KindDefinition(
        ModelVersion,
        short="mver",
        columns=(
            Column("Model", ".spec.model"),
            Column("Version", ".spec.version", "integer"),
            Column("Format", ".spec.format"),
            Column("Ready", _condition("Ready", "status")),
            Column("Reason", ".status.reason"),
            Column("In use", ".status.inUse", "integer"),
            Column("Size", ".status.size"),
            _AGE,
            Column("Digest", ".status.resolvedDigest", wide=True),
            Column("Source", ".spec.source.uri", wide=True),
        ),
        selectable=(".spec.model",),
        name_pattern=MODEL_NAME,
    ),
    KindDefinition(
        InferencePool,
        short="ipool",
        columns=(
            Column("Ready", _condition("Ready", "status")),
            Column("Version", ".status.version"),
            Column("Canary", ".status.rollout.summary"),
            Column("Replicas", ".status.summary"),
            Column("Tok/s", ".status.throughput.tokensPerSecond"),
            Column("Phase", ".status.phase"),
            Column("Reason", ".status.reason"),
            _AGE,
            Column("Req/s", ".status.throughput.requestsPerSecond", wide=True),
            Column("Scaling", ".status.scaling.summary", wide=True),
            Column("$/Mtok", ".status.throughput.costPerMillionTokens", wide=True),
            Column("$/Mreq", ".status.throughput.costPerMillionRequests", wide=True),
            Column("J/tok", ".status.throughput.joulesPerToken", wide=True),
            Column("Idle-$", ".status.cost.idleCost", wide=True),
            Column("URL", ".status.url", wide=True),
            Column("Traffic", ".status.traffic", wide=True),
        ),
        default_scale=DEFAULT_REPLICAS,
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": _SCALE_SELECTOR,
        },
    ),
)


def render(definition: KindDefinition) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    schema = structural_schema(definition.model)
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": _metadata_schema(definition.name_pattern),
        "spec": schema["properties"]["spec"],
        "status": schema["properties"]["status"],
    }
    schema["required"] = ["spec"]
    subresources: dict[str, Any] = {"status": {}}
    if definition.scale is not None:
        subresources["scale"] = definition.scale
        if definition.default_scale is not None:
            node = schema
            for part in definition.scale["specReplicasPath"].strip(".").split("."):
                node = node["properties"][part]
            node["default"] = definition.default_scale
    version: dict[str, Any] = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": subresources,
        "additionalPrinterColumns": [column.render() for column in definition.columns],
    }
    if definition.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in definition.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.crd_name},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [definition.short],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def _metadata_schema(name_pattern: str) -> dict[str, Any]:
    # Names become host names, label values and prefixes of child names: 63 minus the longest suffix we append.
    return {"type": "object", "properties": {"name": {"type": "string", "maxLength": 52, "pattern": name_pattern}}}


class _Dumper(yaml.SafeDumper):
    """Writes everything out: anchors and aliases are for machines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(document: dict[str, Any]) -> str:
    """A generated file's content."""
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120)
