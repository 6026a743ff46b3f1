"""What there is, without what only tells how it came about: two worlds that should be equal are compared by this.

Left out are UIDs, versions, times, nodes, the number of the attempt, and what a status keeps as a record of the past.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from aifactory.api import names
from aifactory.kube.resources import CONFIGMAPS, DEPLOYMENTS, PODGROUPS, PODS, PVCS, SERVICES
from tests.sim.cluster import Body, labels_of
from tests.sim.world import World
from tests.support.kinds import INFERENCEPOOLS, MODELVERSIONS, TRAININGJOBS

CHILDREN = (PODS, SERVICES, CONFIGMAPS, PVCS, DEPLOYMENTS, PODGROUPS)
RECORDS = {
    "attempt",
    "checkpoint",
    "completionTime",
    "firstRunningTime",
    "lastFailure",
    "progress",
    "restarts",
    "startTime",
}
"""Fields of a status that record the past."""

_HOW = {"reason", "strategy", "strategyReason", "loadSeconds"}
"""How a pool has come to what it serves."""

_UID = re.compile(r"uid-\d+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def view(world: World) -> dict[str, list[Any]]:
    """Our objects and their children, by kind."""
    resources = (TRAININGJOBS, MODELVERSIONS, INFERENCEPOOLS, *CHILDREN)
    seen = {resource.kind: [_seen(world, body) for body in world.cluster.all(resource)] for resource in resources}
    return {kind: sorted(bodies, key=_text) for kind, bodies in seen.items()}


def difference(left: Mapping[str, list[Any]], right: Mapping[str, list[Any]]) -> str:
    """What is in one view only, one leaf a line; "" where they are equal."""
    one, other = Counter(_leaves(left)), Counter(_leaves(right))
    return "\n".join([*(f"- {leaf}" for leaf in one - other), *(f"+ {leaf}" for leaf in other - one)])


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Each value with its path; members of lists have no number."""
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from _leaves(member, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for member in value:
            yield from _leaves(member, f"{path}[]")
    else:
        yield f"{path}: {value!r}"


def identities(world: World) -> dict[str, str]:
    """UID of each child, by kind and name."""
    return {
        f"{resource.kind} {body['metadata']['name']}": body["metadata"]["uid"]
        for resource in CHILDREN
        for body in world.cluster.all(resource)
    }


def _seen(world: World, body: Body) -> Any:
    meta, status = body["metadata"], dict(body.get("status", {}))
    for name in RECORDS:
        status.pop(name, None)
    if "conditions" in status:
        conditions = {c["type"]: _condition(c, meta.get("generation")) for c in status["conditions"]}
        if conditions.get("Suspended", {}).get("status") == "False":
            del conditions["Suspended"]  # a job that was never stopped does not say so
        status["conditions"] = conditions
    if "observedGeneration" in status:
        status["observedGeneration"] = status["observedGeneration"] == meta["generation"]
    for part, records in ({"resolved": {"createdAttempt"}, "rollout": _HOW}).items():
        if isinstance(found := status.get(part), Mapping):
            status[part] = {name: value for name, value in found.items() if name not in records}
    kept = {name: meta[name] for name in ("name", "labels", "annotations", "ownerReferences") if name in meta}
    replaced = labels_of(body).get(names.LABEL_ROLE) in (names.ROLE_SERVE, names.ROLE_GATEWAY)
    if replaced and body["kind"] == PODS.kind:
        kept["name"] = meta["name"].rpartition("-")[0]
    spec = {name: value for name, value in body.get("spec", {}).items() if name != "nodeName"}
    text = _text({"metadata": kept, "spec": spec, "data": body.get("data"), "status": status})
    return json.loads(_without_attempt(world, body, _TIME.sub("then", _UID.sub(lambda m: _named(world, m[0]), text))))


def _condition(condition: Mapping[str, Any], generation: int | None) -> dict[str, Any]:
    kept = {name: value for name, value in condition.items() if name not in ("type", "lastTransitionTime")}
    if "observedGeneration" in kept:
        kept["observedGeneration"] = kept["observedGeneration"] == generation
    return kept


def _named(world: World, uid: str) -> str:
    for objects in world.cluster.objects.values():
        for body in objects.values():
            if body["metadata"]["uid"] == uid:
                return f"uid of {body['kind']} {body['metadata']['name']}"
    return "uid of nothing"


def _without_attempt(world: World, body: Body, text: str) -> str:
    meta = body["metadata"]
    job = meta["name"] if body["kind"] == TRAININGJOBS.kind else labels_of(body).get(names.LABEL_JOB)
    owner = world.cluster.find(TRAININGJOBS, meta["namespace"], job) if job else None
    attempt = owner.get("status", {}).get("attempt", 0) if owner is not None else None
    if attempt is None:
        return text
    text = re.sub(rf"\b({job}-\d+|{job})-{attempt}\b", r"\1-ATTEMPT", text)
    text = re.sub(rf'("AIFACTORY_ATTEMPT", "value": )"{attempt}"', r'\1"ATTEMPT"', text)
    return text.replace(f'"{names.LABEL_ATTEMPT}": "{attempt}"', f'"{names.LABEL_ATTEMPT}": "ATTEMPT"')


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
