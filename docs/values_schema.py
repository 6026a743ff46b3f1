"""The JSON schema of the values: keys and descriptions are those of values.yaml, and so are the types that it shows.

It is closed at every level: Helm refuses a key that nobody knows, with its path, instead of passing it over. What may
stand where values.yaml has something empty, and what may not, is said in `RULES`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aifactory.engine.taskpods import TaskPodDefaults

Json = dict[str, Any]

DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
QUANTITY = r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|Ki|m|e[0-9]+)?$"

TYPES = {bool: "boolean", int: "integer", str: "string"}
ANY: Json = {"type": "object"}


def text(pattern: str) -> Json:
    """A string of which all of it fits."""
    return {"type": "string", "pattern": f"^({pattern})$"}


def whole(least: int, most: int | None = None) -> Json:
    """An integer in bounds."""
    return {"type": "integer", "minimum": least, **({"maximum": most} if most is not None else {})}


def closed(properties: Json, required: tuple[str, ...] = ()) -> Json:
    """An object with these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties} | (
        {"required": list(required)} if required else {}
    )


def map_of(values: Json) -> Json:
    """An object with any keys."""
    return {"type": "object", "additionalProperties": values}


def list_of(items: Json) -> Json:
    """An array."""
    return {"type": "array", "items": items}


def nullable(type_: str) -> Json:
    """Something that Helm's null takes away."""
    return {"type": [type_, "null"]}


def optional(rule: Json) -> Json:
    """The same, or an empty string."""
    return rule | {"pattern": rule["pattern"].replace("^(", "^(|", 1)}


STRING: Json = {"type": "string"}
STRINGS = map_of(STRING)
BOOLEAN: Json = {"type": "boolean"}
NAME = text(rf"{DNS}(\.{DNS})*")
NAMESPACE = text(DNS)
TAG = text(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = text(r"sha256:[0-9a-f]{64}")
REPOSITORY = text(r"[a-z0-9][-a-z0-9._]*(/[a-z0-9][-a-z0-9._]*)*")
REGISTRY = text(r"[a-zA-Z0-9][-a-zA-Z0-9._]*(:[0-9]+)?(/[a-z0-9][-a-z0-9._]*)*")
IMAGE = closed({"registry": REGISTRY, "repository": REPOSITORY, "tag": optional(TAG), "digest": optional(DIGEST)})
SIZE: Json = {"type": "string", "pattern": QUANTITY}
AMOUNTS: Json = {
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "number"], "pattern": QUANTITY},
}
RESOURCES = closed({"requests": AMOUNTS, "limits": AMOUNTS})
TOLERATION = closed(
    {
        "key": STRING,
        "operator": {"enum": ["Exists", "Equal", "Lt", "Gt"]},
        "value": STRING,
        "effect": {"enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
        "tolerationSeconds": {"type": "integer"},
    }
)
SPREAD = closed(
    {
        "maxSkew": whole(1),
        "topologyKey": STRING,
        "whenUnsatisfiable": {"enum": ["DoNotSchedule", "ScheduleAnyway"]},
        "labelSelector": ANY,
        "matchLabelKeys": list_of(STRING),
        "minDomains": whole(1),
        "nodeAffinityPolicy": {"enum": ["Honor", "Ignore"]},
        "nodeTaintsPolicy": {"enum": ["Honor", "Ignore"]},
    },
    required=("maxSkew", "topologyKey", "whenUnsatisfiable"),
)
SOURCE = closed(dict.fromkeys(("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"), ANY))
VARIABLE = closed({"name": STRING, "value": STRING, "valueFrom": SOURCE}, required=("name",))
PEER = closed({"podSelector": ANY, "namespaceSelector": ANY, "ipBlock": ANY})
USER = {"runAsUser": nullable("integer"), "runAsGroup": nullable("integer"), "runAsNonRoot": nullable("boolean")}
CONTEXT = USER | {"seccompProfile": nullable("object"), "seLinuxOptions": ANY, "appArmorProfile": ANY}
POD_CONTEXT = CONTEXT | {
    "fsGroup": nullable("integer"),
    "fsGroupChangePolicy": {"enum": ["OnRootMismatch", "Always"]},
    "supplementalGroups": list_of({"type": "integer"}),
    "supplementalGroupsPolicy": {"enum": ["Merge", "Strict"]},
    "seLinuxChangePolicy": {"enum": ["MountOption", "Recursive"]},
    "sysctls": list_of(ANY),
}
CONTAINER_CONTEXT = CONTEXT | {
    "allowPrivilegeEscalation": nullable("boolean"),
    "capabilities": {"type": ["object", "null"]},
    "privileged": nullable("boolean"),
    "procMount": STRING,
    "readOnlyRootFilesystem": nullable("boolean"),
}


def task_pods() -> Json:
    """Of the pods of tasks, by what the operator reads: a key that it would refuse is refused by Helm."""
    told = TaskPodDefaults.model_json_schema(by_alias=True)
    fields = {name: _without_words(field) for name, field in told["properties"].items()}
    fields |= {
        "imagePullSecrets": list_of(closed({"name": NAME}, required=("name",))),
        "tolerations": list_of(TOLERATION),
        "resources": RESOURCES,
        "validation": closed({"enabled": BOOLEAN, "resources": RESOURCES}),
        "check": closed({"enabled": BOOLEAN, "resources": RESOURCES, "activeDeadlineSeconds": whole(1)}),
    }
    return closed(fields)


def _without_words(field: Mapping[str, Any]) -> Json:
    return {name: value for name, value in field.items() if name not in ("title", "default")}


RULES: dict[str, Json] = {
    "images.registry": REGISTRY,
    "images.tag": optional(TAG),
    **{f"images.{name}": IMAGE for name in ("operator", "agent", "server", "gateway")},
    "images.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "images.pullSecrets": list_of(NAME),
    "replicas": whole(0),
    "resources.requests": AMOUNTS,
    "resources.limits": AMOUNTS,
    "workers": whole(1),
    "watchNamespaces": list_of(NAMESPACE) | {"uniqueItems": True},
    "leaseNamespace": NAMESPACE,
    "modelClaim.size": SIZE,
    "modelClaim.storageClassName": optional(NAME),
    "inputClaim.size": SIZE,
    "inputClaim.storageClassName": optional(NAME),
    "hub.endpoint": text(r"|https?://[^@?\s]+"),
    "taskPods.defaults": task_pods(),
    "taskPods.namespaces": map_of(task_pods()),
    "maxConcurrentRollouts": whole(1),
    "fullnameOverride": optional(NAMESPACE) | {"maxLength": 53},
    "commonLabels": STRINGS,
    "podLabels": STRINGS,
    "podAnnotations": STRINGS,
    "deploymentAnnotations": STRINGS,
    "serviceAnnotations": STRINGS,
    "serviceAccountAnnotations": STRINGS,
    "extraEnv": list_of(VARIABLE),
    "priorityClassName": optional(NAME),
    "podSecurityContext": closed(POD_CONTEXT),
    "securityContext": closed(CONTAINER_CONTEXT),
    "networkPolicies.metricsFrom": list_of(PEER),
    "operatorNetworkPolicy.metricsFrom": list_of(PEER),
    "operatorNetworkPolicy.apiServerPorts": list_of(whole(1, 65535)),
    "operatorNetworkPolicy.extraEgress": list_of(closed({"to": list_of(ANY), "ports": list_of(ANY)})),
    "gpuHourPrice": text(r"|[0-9]{1,6}(\.[0-9]{1,6})?"),
    "dashboards.labels": STRINGS,
    "prometheusRule.labels": STRINGS,
    "serviceMonitor.interval": text(r"([0-9]+(ms|s|m|h))+"),
    "serviceMonitor.labels": STRINGS,
    "logLevel": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
    "nodeSelector": STRINGS,
    "tolerations": list_of(TOLERATION),
    "affinity": closed({"nodeAffinity": ANY, "podAffinity": ANY, "podAntiAffinity": ANY}),
    "topologySpreadConstraints": list_of(SPREAD),
}


def schema(values: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """The schema's file.

    Args:
        values: the chart's defaults.
        words: what each of them does, by its path.
    """
    used: set[str] = set()
    made = _of(values, "", words, used)
    if unused := sorted(set(RULES) - used):
        raise SystemExit(f"docs/values_schema.py has rules for what is not in values.yaml: {', '.join(unused)}")
    # Helm gives a chart that is part of another one what all of them share.
    made["properties"]["global"] = ANY
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **made}, indent=1) + "\n"


def _of(node: Any, path: str, words: Mapping[str, str], used: set[str]) -> Json:
    told = {"description": words[path]} if path in words else {}
    if path in RULES:
        used.add(path)
        return told | RULES[path]
    if isinstance(node, dict) and node:
        return told | closed({key: _of(value, f"{path}.{key}".lstrip("."), words, used) for key, value in node.items()})
    if type(node) not in TYPES:
        raise SystemExit(f"values.yaml: {path} is {node!r}: say in docs/values_schema.py what may stand there")
    return told | {"type": TYPES[type(node)]}
