"""Server-side apply, as far as clients of ours can tell: who owns which field, what an apply changes and removes.

A field is a path; a step is a member's name, or the key of an item in a list that has keys (`k:{"name":"triton"}`).
Other lists are one field. `managedFields` is written as the API server writes it (FieldsV1), but for status, which is
not followed. https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

Body = dict[str, Any]
Path: TypeAlias = tuple[str, ...]
Owners: TypeAlias = dict[tuple[str, str], set[Path]]
"""Manager and operation ("Apply", "Update") -> the fields that are theirs."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("port", "containerPort", "protocol"),
}
"""Lists whose items are known by these members (those that an item has)."""
_NOBODYS = {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"}


class Taken(Exception):
    """Fields belong to others and have other values; told as `.spec.replicas (kubectl)`."""


def apply(known: Mapping[str, Any], owners: Owners, wanted: Mapping[str, Any], manager: str, *, force: bool) -> Body:
    """`known` with what is wanted, and without what the manager wanted before and nobody else owns. Changes `owners`.

    Raises:
        Taken: not `force`, and others own fields with other values.
    """
    mine = (manager, "Apply")
    wishes, before = _leaves(_owned(wanted)), owners.get(mine, set())
    now = _leaves(_owned(known))
    taken = [(path, who) for who in owners if who != mine for path in owners[who] & wishes.keys()]
    lost = [(path, who) for path, who in taken if now.get(path) != wishes[path]]
    if lost and not force:
        raise Taken(", ".join(f".{'.'.join(path)} ({who[0]})" for path, who in sorted(lost)))
    for path, who in lost:
        owners[who].discard(path)
    owners[mine] = set(wishes)
    result = _merge(known, _owned(wanted))
    others = {path for who, paths in owners.items() for path in paths}
    for path in sorted(before - wishes.keys(), key=len):  # an item goes as a whole, before its parts
        if not _is_key(path) and not any(other[: len(path)] == path for other in others):
            result = _without(result, path)
    _forget(owners, result)
    return result


def update(old: Mapping[str, Any], new: Mapping[str, Any], owners: Owners, manager: str) -> None:
    """Somebody has changed the object by other means: what differs is theirs now."""
    before, now = _leaves(_owned(old)), _leaves(_owned(new))
    theirs = {path for path, value in now.items() if before.get(path, owners) != value}
    for who in owners:
        owners[who] -= theirs
    if theirs:
        owners.setdefault((manager, "Update"), set()).update(theirs)
    _forget(owners, new)


def read(managed_fields: Iterable[Mapping[str, Any]]) -> Owners:
    """What `managedFields` says."""
    return {(entry["manager"], entry["operation"]): set(_paths(entry["fieldsV1"])) for entry in managed_fields}


def write(owners: Owners, before: Iterable[Mapping[str, Any]], api_version: str, time: str) -> list[Body]:
    """`managedFields`; an entry keeps its time as long as its fields stay the same."""
    known = {(entry["manager"], entry["operation"]): entry for entry in before}
    entries = []
    for (manager, operation), paths in sorted(owners.items()):
        fields = _tree(paths)
        old = known.get((manager, operation))
        same = old is not None and old["fieldsV1"] == fields
        entries.append(
            {
                "manager": manager,
                "operation": operation,
                "apiVersion": api_version,
                "time": old["time"] if old is not None and same else time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            }
        )
    return entries


# --- Inside ---


def _owned(body: Mapping[str, Any]) -> Body:
    """Of an object what somebody can own."""
    rest = {name: value for name, value in body.items() if name not in ("apiVersion", "kind", "status", "metadata")}
    metadata = {name: value for name, value in body.get("metadata", {}).items() if name not in _NOBODYS}
    return {"metadata": metadata, **rest} if metadata else rest


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Every field with its value; an item of a list with keys is a field of its own as well."""
    if isinstance(value, Mapping) and value:
        found: dict[Path, Any] = {}
        for name, member in value.items():
            found |= _leaves(member, (*path, f"f:{name}"))
        return found
    if isinstance(value, list) and (keyed := _keyed(path, value)) is not None:
        found = {}
        for key, item in keyed.items():
            found[(*path, key)] = None
            found |= _leaves(item, (*path, key))
        return found
    return {path: value}


def _keyed(path: Path, items: list[Any]) -> dict[str, Any] | None:
    """Items by their keys, if the list at this path has keys."""
    names = KEYS.get(path[-1].removeprefix("f:")) if path else None
    if names is None or not all(isinstance(item, Mapping) for item in items):
        return None
    return {_key(names, item): item for item in items}


def _is_key(path: Path) -> bool:
    """Without this member an item would be another one."""
    return len(path) > 1 and path[-2].startswith("k:") and path[-1].removeprefix("f:") in json.loads(path[-2][2:])


def _key(names: tuple[str, ...], item: Mapping[str, Any]) -> str:
    return "k:" + json.dumps({name: item[name] for name in names if name in item}, separators=(",", ":"))


def _merge(known: Any, wanted: Any, path: Path = ()) -> Any:
    if isinstance(known, Mapping) and isinstance(wanted, Mapping):
        result = dict(known)
        for name, value in wanted.items():
            result[name] = _merge(known[name], value, (*path, f"f:{name}")) if name in known else value
        return result
    if isinstance(known, list) and isinstance(wanted, list) and (new := _keyed(path, wanted)) is not None:
        old = _keyed(path, known) or {}
        return [*(_merge(item, new[key], (*path, key)) if key in new else item for key, item in old.items())] + [
            item for key, item in new.items() if key not in old
        ]
    return wanted


def _without(value: Any, path: Path) -> Any:
    """`value` without one field, and without what is empty then."""
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        wanted = json.loads(step.removeprefix("k:"))
        kept = []
        for item in value:
            if any(item.get(name) != member for name, member in wanted.items()):
                kept.append(item)
            elif rest and (less := _without(item, rest)):
                kept.append(less)
        return kept
    name = step.removeprefix("f:")
    if not isinstance(value, Mapping) or name not in value:
        return value
    left = _without(value[name], rest) if rest else None
    others = {key: member for key, member in value.items() if key != name}
    return {**others, name: left} if left else others


def _forget(owners: Owners, body: Mapping[str, Any]) -> None:
    """Nobody owns what is not there, and who owns nothing is not listed."""
    there = _leaves(_owned(body)).keys()
    for who in list(owners):
        owners[who] &= there
        if not owners[who]:
            del owners[who]


def _tree(paths: Iterable[Path]) -> Body:
    tree: Body = {}
    for path in sorted(paths):
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        if path[-1].startswith("k:"):
            place["."] = {}
    return tree


def _paths(tree: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    if not tree or "." in tree:
        yield path
    for step, below in tree.items():
        if step != ".":
            yield from _paths(below, (*path, step))
