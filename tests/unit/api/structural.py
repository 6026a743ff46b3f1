"""What the API server asks of a CRD's schema, in Python, so that a mistake is found without one.

Rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

TYPES = {"array", "boolean", "integer", "number", "object", "string"}
KNOWN = {
    "additionalProperties",
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
"""Keywords a schema of ours may use. `default` writes into users' objects: see `test_nothing_is_defaulted`."""
OF_TYPE = {
    "array": {"items", "maxItems", "minItems", "x-kubernetes-list-map-keys", "x-kubernetes-list-type"},
    "object": {
        "additionalProperties",
        "maxProperties",
        "minProperties",
        "properties",
        "required",
        "x-kubernetes-preserve-unknown-fields",
    },
    "string": {"format", "maxLength", "minLength", "pattern"},
    "integer": {"format", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf"},
}


def assert_structural(schema: Json, path: str = "") -> None:
    """The schema is structural, and tidy: no keyword that has no effect on its type."""
    assert isinstance(schema, dict), f"{path}: a schema is an object"
    assert schema.keys() <= KNOWN, f"{path}: {sorted(schema.keys() - KNOWN)} can not stand here"
    type_ = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        assert type_ is None, f"{path}: int-or-string has no type"
    elif type_ is not None or not schema.get("x-kubernetes-preserve-unknown-fields"):  # which stands for any type
        assert type_ in TYPES, f"{path}: type is {type_}"
        for owner, keywords in OF_TYPE.items():
            if owner != type_ and not (owner == "integer" and type_ == "number"):
                # `format` belongs to strings and numbers.
                wrong = schema.keys() & keywords - OF_TYPE.get(type_, set())
                assert not wrong, f"{path}: {sorted(wrong)} on type {type_}"
    if type_ == "array":
        assert "items" in schema, f"{path}: an array needs items"
        assert_structural(schema["items"], f"{path}[]")
        _assert_list_map(schema, path)
    if type_ == "object":
        assert not ("properties" in schema and "additionalProperties" in schema), f"{path}: either of the two"
        assert set(schema.get("required", ())) <= set(schema.get("properties", {})), f"{path}: required but unknown"
        assert schema.get("properties") != {}, f"{path}: an API server does not keep an empty map"
        open_ = "properties" in schema or "additionalProperties" in schema or schema.get("maxProperties") == 0
        assert open_ or schema.get("x-kubernetes-preserve-unknown-fields"), f"{path}: would be pruned to nothing"
    for name, child in schema.get("properties", {}).items():
        assert_structural(child, f"{path}.{name}")
    if "additionalProperties" in schema:
        assert_structural(schema["additionalProperties"], f"{path}.*")
    if "pattern" in schema:
        re.compile(schema["pattern"])
    for rule in schema.get("x-kubernetes-validations", ()):
        assert rule.keys() <= {"rule", "message", "messageExpression"}, f"{path}: {rule}"
        assert rule["message"].strip(), f"{path}: a rule without words"
        assert "\n" not in rule["message"], f"{path}: one line"


def _assert_list_map(schema: Json, path: str) -> None:
    keys = schema.get("x-kubernetes-list-map-keys")
    assert schema.get("x-kubernetes-list-type") in (None, "atomic", "map"), path
    assert (schema.get("x-kubernetes-list-type") == "map") == bool(keys), (
        f"{path}: a map list needs keys, no other does"
    )
    for key in keys or ():
        items = schema["items"]
        assert key in items.get("required", ()), f"{path}: key {key} must be required"
        assert items["properties"][key]["type"] in ("string", "integer", "boolean"), (
            f"{path}: key {key} must be a scalar"
        )


def nodes(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every schema in the schema, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def find(schema: Json, path: str) -> Json | None:
    """The schema at a JSONPath of a column: `.status.nodes.summary` or `.status.conditions[?(@.type=="X")].status`."""
    node: Json | None = schema
    for part in re.findall(r"\.([A-Za-z]+)(\[\?\(@\.(\w+)==\"\w+\"\)\])?", path):
        name, filtered, key = part
        node = (node or {}).get("properties", {}).get(name)
        if filtered and node is not None:
            node = node["items"]
            assert key in node["properties"], path
    return node


def unknown_fields(schema: Json, value: Any, path: str = "") -> list[str]:
    """Fields that the API server would prune, or refuse under strict validation."""
    if isinstance(value, list):
        return [
            bad
            for index, entry in enumerate(value)
            for bad in unknown_fields(schema["items"], entry, f"{path}[{index}]")
        ]
    if not isinstance(value, dict):
        return []
    result: list[str] = []
    for name, child in value.items():
        if name in schema.get("properties", {}):
            result += unknown_fields(schema["properties"][name], child, f"{path}.{name}")
        elif "additionalProperties" in schema:
            result += unknown_fields(schema["additionalProperties"], child, f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.append(f"{path}.{name}")
    return result
