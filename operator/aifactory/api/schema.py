"""From pydantic models to structural schemas.

Pydantic emits JSON Schema 2020-12; an API server accepts a stricter OpenAPI 3.0 subset
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema):
no `$ref`, no `anyOf` with `null`, no `const`, no `default` that writes into users' objects. The functions here do that
translation and nothing else; what they cannot translate is an error at generation time, never a wrong CRD.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class SchemaError(Exception):
    """A model uses something that a structural schema cannot express."""


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Schema of `model` as it may stand in a CRD.

    Raises:
        SchemaError: the model holds a construct without a structural counterpart.
    """
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _translate(document, document.get("$defs", {}), model.__name__)


def _translate(node: dict[str, Any], defs: dict[str, Any], path: str) -> dict[str, Any]:
    node = _inline(node, defs)
    node = _without_null(node, path)
    node = _inline(node, defs)
    anything = bool(node.get("x-kubernetes-preserve-unknown-fields")) and "type" not in node
    if node.get("x-kubernetes-int-or-string") or anything:
        node.pop("anyOf", None)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "enum" in node and "type" not in node:
        node["type"] = "string"
    if unsupported := node.keys() & {"anyOf", "oneOf", "allOf", "prefixItems", "patternProperties", "discriminator"}:
        raise SchemaError(f"{path}: {', '.join(sorted(unsupported))} cannot stand in a structural schema")

    result: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("title", "default", "$defs"):
            continue
        if key == "properties":
            if not value:  # an API server does not keep an empty map, and Argo CD would write it again for ever
                result["maxProperties"] = 0
                continue
            result[key] = {name: _translate(child, defs, f"{path}.{name}") for name, child in value.items()}
        elif key == "items":
            result[key] = _translate(value, defs, f"{path}[]")
        elif key == "additionalProperties":
            if isinstance(value, dict):
                result[key] = _translate(value, defs, f"{path}.*")
        elif key == "description":
            result[key] = " ".join(str(value).split())
        else:
            result[key] = value
    if "type" not in result and not result.get("x-kubernetes-int-or-string") and not anything:
        raise SchemaError(f"{path}: has no type")
    return result


def _inline(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Replace a reference by its definition; what stands beside the reference (description, rules) wins."""
    node = dict(node)
    while "$ref" in node:
        target = dict(defs[node.pop("$ref").removeprefix("#/$defs/")])
        rules = [*target.get("x-kubernetes-validations", []), *node.get("x-kubernetes-validations", [])]
        node = {**target, **node}
        if rules:
            node["x-kubernetes-validations"] = rules
    return node


def _without_null(node: dict[str, Any], path: str) -> dict[str, Any]:
    """`X | None` means "may be left out": drop the null branch and keep X."""
    branches = node.get("anyOf")
    if branches is None or node.get("x-kubernetes-int-or-string"):
        return node
    kept = [branch for branch in branches if branch.get("type") != "null"]
    if len(kept) != 1:
        raise SchemaError(f"{path}: a union of {len(kept)} types cannot stand in a structural schema")
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**kept[0], **rest}
