"""Merge patches (RFC 7396) and the part of JSON patches (RFC 6902) that clients of ours use. Nothing in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aifactory.kube.errors import Conflict, Invalid


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` with a merge patch applied."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`target` with add, replace, remove and test on members of objects carried out."""
    result: dict[str, Any] = dict(target)
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = result
        for part in path:
            place[part] = dict(place.get(part) or {})
            place = place[part]
        match operation["op"]:
            case "add" | "replace":
                if [*path, last] == ["metadata", "resourceVersion"]:
                    if place[last] != operation["value"]:
                        raise Conflict(409, "Conflict", "the object has been modified")
                    continue
                place[last] = operation["value"]
            case "remove":
                place.pop(last, None)
            case "test":
                if place.get(last) != operation["value"]:
                    raise Invalid(422, "Invalid", f"test of {operation['path']} failed")
            case other:
                raise Invalid(422, "Invalid", f"this server does not know {other}")
    return result
