"""The schema of the chart's values: closed at every level, and it takes what the operator takes and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aifactory.engine.taskpods import TaskPods

CHART = Path(__file__).parents[2] / "charts/aifactory"
SCHEMA: Any = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: Any = yaml.safe_load((CHART / "values.yaml").read_text())
CHECK = jsonschema.Draft7Validator(SCHEMA)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema of an object whose keys are ours to name."""
    if "properties" in schema:
        yield path, schema
    for key, value in schema.get("properties", {}).items():
        yield from objects(value, f"{path}/{key}")
    if isinstance(schema.get("items"), dict):
        yield from objects(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from objects(schema["additionalProperties"], f"{path}/*")


def with_value(path: str, value: Any) -> Any:
    """Values with which one differs from the defaults."""
    values = json.loads(json.dumps(DEFAULTS))
    node = values
    *above, last = path.split(".")
    for part in above:
        node = node[part]
    node[last] = value
    return values


def test_it_is_a_schema_that_takes_the_defaults() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    CHECK.validate(DEFAULTS)


@pytest.mark.parametrize("schema", [pytest.param(schema, id=path or "/") for path, schema in objects(SCHEMA)])
def test_no_level_takes_a_key_that_nobody_knows(schema: Any) -> None:
    assert schema["additionalProperties"] is False


def test_its_keys_are_those_of_the_values() -> None:
    def same(schema: Any, values: Any, path: str = "") -> None:
        for key, value in values.items():
            assert key in schema["properties"], f"{path}{key}"
            if isinstance(value, dict) and "properties" in schema["properties"][key]:
                same(schema["properties"][key], value, f"{path}{key}.")
        assert path or schema["properties"].keys() - values.keys() == {"global"}

    same(SCHEMA, DEFAULTS)
    assert all("description" in schema for key, schema in SCHEMA["properties"].items() if key != "global")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("images.registry", ""),
        ("images.registry", "https://registry.example.com"),
        ("images.tag", "a:b"),
        ("images.tag", 1),
        ("images.server", {"digest": "0123"}),
        ("images.server", {"tag": "a@sha256:0"}),
        ("images.pullPolicy", "Sometimes"),
        ("images.pullSecrets", [{"name": "a"}]),
        ("replicas", -1),
        ("replicas", "2"),
        ("resources.limits", {"memory": "1 GB"}),
        ("workers", 0),
        ("watchNamespaces", "team-a"),
        ("watchNamespaces", ["Team A"]),
        ("watchNamespaces", [""]),
        ("watchNamespaces", ["a", "a"]),
        ("leaseNamespace", ""),
        ("modelClaim.size", "10 GB"),
        ("modelClaim.storageClassName", "Shared Disk"),
        ("hub.endpoint", "hub.example.com"),
        ("hub.endpoint", "https://user@hub.example.com"),
        ("taskPods.defaults", {"tolerations": [{"operater": "Exists"}]}),
        ("taskPods.defaults", {"activeDeadlineSeconds": 0}),
        ("taskPods.namespaces", {"team-a": {"validation": {"enable": False}}}),
        ("maxConcurrentRollouts", 0),
        ("crds", {"install": "yes"}),
        ("fullnameOverride", "Factory"),
        ("commonLabels", {"a": True}),
        ("extraEnv", {"A": "b"}),
        ("extraEnv", [{"name": "A", "value": 1}]),
        ("podSecurityContext", {"runAsUsr": 1}),
        ("securityContext", {"fsGroup": 1}),
        ("operatorNetworkPolicy.apiServerPorts", [0]),
        ("operatorNetworkPolicy.metricsFrom", [{"pods": {}}]),
        ("serviceMonitor.interval", "often"),
        ("logLevel", "info"),
        ("tolerations", {"operator": "Exists"}),
        ("affinity", {"podAffinities": {}}),
        ("topologySpreadConstraints", [{"topologyKey": "zone"}]),
    ],
)
def test_what_it_refuses(path: str, value: Any) -> None:
    assert not CHECK.is_valid(with_value(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("images.registry", "registry.example.com:5000/a/b"),
        ("images.server", {"registry": "r", "repository": "a/b", "tag": "1", "digest": f"sha256:{'a' * 64}"}),
        ("resources.limits", None),
        ("resources.requests", {"cpu": 1, "memory": "1.5Gi"}),
        ("hub.endpoint", "http://hub.models.svc:8080/mirror"),
        ("podSecurityContext", {"runAsUser": None}),
        ("serviceMonitor.interval", "1m30s"),
        ("global", {"anything": 1}),
    ],
)
def test_what_it_takes(path: str, value: Any) -> None:
    CHECK.validate(with_value(path, value))


def test_it_refers_to_nothing_that_is_not_in_it() -> None:
    """Helm would refuse whatever lies there."""
    assert "$ref" not in json.dumps(SCHEMA)


def test_of_task_pods_it_takes_the_keys_that_the_operator_takes() -> None:
    fields = SCHEMA["properties"]["taskPods"]["properties"]["defaults"]["properties"]
    given = {name: {"object": {}, "array": [], "string": "a"}.get(rule["type"]) for name, rule in fields.items()}
    given |= {"activeDeadlineSeconds": 1, "validation": {"enabled": True, "resources": {}}}
    given |= {"check": {"enabled": True, "resources": {}, "activeDeadlineSeconds": 60}}
    CHECK.validate(with_value("taskPods.defaults", given))
    TaskPods.model_validate({"defaults": given})
