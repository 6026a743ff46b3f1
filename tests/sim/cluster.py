"""The API server and its database, in dictionaries: what is stored, what changed when, and what goes with what.

Everything that lives in the cluster (the operator's API connection, kubelets, controllers, users) changes objects by
the methods here, each of which is atomic. Stored bodies are never changed in place; a change stores a new body.
Hooks see every commit and may raise to end a test.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from aifactory.api.base import format_time
from aifactory.kube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, NotFound
from aifactory.kube.resources import DEPLOYMENTS, PODS, PVCS, Key, Resource
from tests.sim import ownership
from tests.sim.patches import json_patch, merge_patch
from tests.support.faketime import EPOCH, FakeTimeLoop

Body = dict[str, Any]
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
encode = msgspec.json.Encoder().encode

REPLICASETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
PVC_PROTECTION = "kubernetes.io/pvc-protection"
FOREGROUND = "foregroundDeletion"


@dataclass(frozen=True, slots=True)
class Commit:
    """One change, as the history keeps it."""

    version: int
    time: float
    resource: Resource
    type: str
    """ADDED, MODIFIED or DELETED."""
    old: Body | None
    new: Body | None
    actor: str
    """Who did it: user, kubelet, a controller's name, or an operator's identity."""
    line: bytes
    """The watch event."""

    @property
    def body(self) -> Body:
        body = self.new if self.new is not None else self.old
        assert body is not None
        return body


@dataclass(frozen=True, slots=True)
class Breakage:
    """One verb on one resource does not work for a while, for everybody."""

    verb: str
    """create, patch, patch_status, apply, delete, list or watch."""
    resource: Resource
    how: str
    """500: a webhook can not be asked; 503: the server has a problem; denied: a webhook says no; hang: no answer."""
    namespace: str | None = None
    """Of the objects concerned; None concerns all."""

    def words(self) -> str:
        """What the server says about it."""
        return f'admission webhook "guard.example.com" denied the request: no {self.verb} of {self.resource} today'


Hook = Callable[[Commit], None]


class Cluster:
    """The state of a cluster. `loop` gives the time, `rng` every choice that a real cluster would make by chance."""

    def __init__(self, loop: FakeTimeLoop, rng: random.Random, *, gangs: bool) -> None:
        self.loop = loop
        self.rng = rng
        self.gangs = gangs
        """Whether PodGroups are served."""
        self.version = 1000
        self.compacted = 0
        """Versions up to this one can not be watched from any more."""
        self.forgotten: dict[Resource, int] = defaultdict(int)
        """The last change of each resource that the history does not hold any more."""
        self.objects: dict[Resource, dict[Key, Body]] = defaultdict(dict)
        self.history: dict[Resource, list[Commit]] = defaultdict(list)
        self.hooks: list[Hook] = []
        self.requests: set[asyncio.Task[Any]] = set()
        """On their way."""
        self.watchers: dict[Resource, list[Callable[[], None]]] = defaultdict(list)
        self.pod_quota_exhausted = False
        self.broken: Breakage | None = None
        self._uids = 0

    # --- Looking ---

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.now)

    def timestamp(self) -> str:
        return format_time(self.now())

    def find(self, resource: Resource, namespace: str, name: str) -> Body | None:
        return self.objects[resource].get(Key(namespace, name))

    def get(self, resource: Resource, namespace: str, name: str) -> Body:
        found = self.find(resource, namespace, name)
        if found is None:
            raise NotFound(404, "NotFound", f'{resource} "{name}" not found')
        return found

    def breakage(self, verb: str, resource: Resource, namespace: str | None) -> Breakage | None:
        """What is broken about a call."""
        broken = self.broken
        if broken is None or (broken.verb, broken.resource) != (verb, resource):
            return None
        return broken if broken.namespace in (None, namespace) else None

    def all(self, resource: Resource, namespace: str | None = None, **labels: str) -> list[Body]:
        objects = self.objects[resource].items()
        return [body for key, body in objects if namespace in (None, key.namespace) and _has(body, labels)]

    def since(self, resource: Resource, version: int) -> list[Commit]:
        """What happened after a version."""
        entries = self.history[resource]
        return entries[bisect_right(entries, version, key=lambda entry: entry.version) :]

    def compact(self) -> None:
        """Forget the history: watches from before now get 410."""
        self.compacted = self.version
        for resource, entries in self.history.items():
            if entries:
                self.forgotten[resource] = entries[-1].version
                entries.clear()

    # --- Changing; each raises what the API server would answer ---

    def create(self, resource: Resource, body: Mapping[str, Any], actor: str, *, dry_run: bool = False) -> Body:
        metadata = body["metadata"]
        key = Key(metadata.get("namespace", "") if resource.namespaced else "", metadata["name"])
        if resource == PODS:
            self._admit_pod(body)
        elif resource == DEPLOYMENTS:
            _check_fields(body["spec"]["template"]["spec"])
        if key in self.objects[resource]:
            raise AlreadyExists(409, "AlreadyExists", f'{resource} "{key.name}" already exists')
        if dry_run:
            return dict(body)
        self._uids += 1
        finalizers = [PVC_PROTECTION] if resource == PVCS else list(metadata.get("finalizers", ()))
        new = {
            **body,
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                **metadata,
                "uid": f"uid-{self._uids}",
                "generation": 1,
                "creationTimestamp": self.timestamp(),
                "finalizers": finalizers,
            },
        }
        if resource == PODS:
            new["status"] = {"phase": "Pending"}
        elif resource == PVCS:
            new["status"] = {"phase": "Bound"}
        else:
            new.pop("status", None)
        return self._commit(resource, "ADDED", None, new, actor)

    def patch(self, resource: Resource, key: Key, patch: Any, actor: str, *, resource_version: str | None) -> Body:
        """Everything but status."""
        known = self._known(resource, key, resource_version)
        if isinstance(patch, Mapping):
            wanted = patch.get("metadata", {}).get("resourceVersion", known["metadata"]["resourceVersion"])
            if wanted != known["metadata"]["resourceVersion"]:
                raise Conflict(409, "Conflict", f"{key.name} has been modified: it is not version {wanted} any more")
            changed = merge_patch(known, {name: value for name, value in patch.items() if name != "status"})
        else:
            changed = json_patch(known, patch)
            changed["status"] = known.get("status", {})
        return self._change(resource, known, changed, actor)

    def apply(
        self, resource: Resource, body: Mapping[str, Any], actor: str, *, field_manager: str, force: bool = True
    ) -> Body:
        """Server-side apply: creates what is not there; one that changes nothing makes no new version."""
        metadata = body["metadata"]
        known = self.objects[resource].get(Key(metadata.get("namespace", ""), metadata["name"]))
        if "managedFields" in metadata:
            raise BadRequest(400, "BadRequest", "metadata.managedFields must be nil")
        if known is None:
            owners: ownership.Owners = {}
            ownership.apply({}, owners, body, field_manager, force=force)
            entries = ownership.write(owners, (), resource.api_version, self.timestamp())
            return self.create(resource, {**body, "metadata": {**metadata, "managedFields": entries}}, actor)
        for name in ("uid", "resourceVersion"):
            if metadata.get(name) not in (None, known["metadata"][name]):
                raise Conflict(409, "Conflict", f"{name} in the body ({metadata[name]}) does not match")
        if resource == DEPLOYMENTS:
            _check_fields(body["spec"]["template"]["spec"])
        before = known["metadata"].get("managedFields", ())
        owners = ownership.read(before)
        try:
            changed = ownership.apply(known, owners, body, field_manager, force=force)
        except ownership.Taken as taken:
            raise Conflict(409, "Conflict", f"Apply failed with conflicts: {taken}") from taken
        entries = ownership.write(owners, before, resource.api_version, self.timestamp())
        changed = {**changed, "metadata": {**changed["metadata"], "managedFields": entries}}
        return self._change(resource, known, changed, actor, followed=False)

    def patch_status(
        self,
        resource: Resource,
        key: Key,
        status: Mapping[str, Any],
        actor: str,
        *,
        resource_version: str | None = None,
    ) -> Body:
        """Nothing but status."""
        known = self._known(resource, key, resource_version)
        changed = {**known, "status": merge_patch(known.get("status", {}), status)}
        return self._change(resource, known, changed, actor)

    def replace(self, resource: Resource, changed: Body, actor: str) -> Body:
        """The object as it should stand, status included: for the cluster's own parts."""
        return self._change(resource, self.get(resource, *key_of(changed)), changed, actor)

    def delete(
        self, resource: Resource, key: Key, actor: str, *, uid: str | None = None, foreground: bool = False
    ) -> tuple[Body, bool]:
        """Delete, gracefully where that applies; returns the object and whether it is gone."""
        known = self.get(resource, *key)
        metadata = known["metadata"]
        if uid not in (None, metadata["uid"]):
            raise Conflict(409, "Conflict", f"the UID in the precondition ({uid}) does not match {metadata['uid']}")
        finalizers = list(metadata.get("finalizers", ()))
        if foreground and FOREGROUND not in finalizers:
            finalizers.append(FOREGROUND)
        if not finalizers and not (resource == PODS and _ends_gracefully(known)):
            return self._remove(resource, known, actor), True
        if "deletionTimestamp" in metadata:
            return known, False
        changed = {
            **known,
            "metadata": {
                **metadata,
                "finalizers": finalizers,
                "deletionTimestamp": self.timestamp(),
                "generation": metadata["generation"] + 1,
            },
        }
        return self._commit(resource, "MODIFIED", known, changed, actor), False

    def purge(self, resource: Resource, key: Key, actor: str) -> None:
        """Remove at once, as a kubelet does when a pod has ended, or `kubectl delete --force`; missing is fine."""
        known = self.objects[resource].get(key)
        if known is not None:
            self._remove(resource, known, actor)

    def drop_finalizer(self, resource: Resource, key: Key, finalizer: str, actor: str) -> None:
        """Remove a finalizer, and with the last one an object that is being deleted; missing is fine."""
        known = self.objects[resource].get(key)
        if known is None or finalizer not in known["metadata"].get("finalizers", ()):
            return
        rest = [name for name in known["metadata"]["finalizers"] if name != finalizer]
        if not rest and "deletionTimestamp" in known["metadata"]:
            self._remove(resource, known, actor)
        else:
            self._change(resource, known, {**known, "metadata": {**known["metadata"], "finalizers": rest}}, actor)

    # --- Inside ---

    def _known(self, resource: Resource, key: Key, resource_version: str | None) -> Body:
        known = self.get(resource, *key)
        if resource_version not in (None, known["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", f'{resource} "{key.name}": the object has been modified')
        return known

    def _admit_pod(self, body: Mapping[str, Any]) -> None:
        _check_fields(body["spec"])
        if self.pod_quota_exhausted:
            name = body["metadata"]["name"]
            words = (
                f'pods "{name}" is forbidden: exceeded quota: team, requested: pods=1, used: pods=9, limited: pods=9'
            )
            raise Forbidden(403, "Forbidden", words)

    def _change(self, resource: Resource, known: Body, changed: Body, actor: str, *, followed: bool = True) -> Body:
        """Store a change; one that changes nothing makes no new version. `followed`: note whose the fields are now."""
        if {**changed, "metadata": {**changed["metadata"], "resourceVersion": ""}} == {
            **known,
            "metadata": {**known["metadata"], "resourceVersion": ""},
        }:
            return known
        metadata = {**changed["metadata"], "uid": known["metadata"]["uid"]}
        if followed and (before := known["metadata"].get("managedFields")):
            owners = ownership.read(before)
            ownership.update(known, changed, owners, actor)
            metadata["managedFields"] = ownership.write(owners, before, resource.api_version, self.timestamp())
        if changed.get("spec") != known.get("spec"):
            metadata["generation"] = known["metadata"]["generation"] + 1
        return self._commit(resource, "MODIFIED", known, {**changed, "metadata": metadata}, actor)

    def _remove(self, resource: Resource, known: Body, actor: str) -> Body:
        last = {**known, "metadata": {**known["metadata"]}}
        return self._commit(resource, "DELETED", known, last, actor)

    def _commit(self, resource: Resource, type_: str, old: Body | None, new: Body, actor: str) -> Body:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        key = key_of(new)
        if type_ == "DELETED":
            del self.objects[resource][key]
        else:
            self.objects[resource][key] = new
        line = encode({"type": type_, "object": new})
        seen_new = None if type_ == "DELETED" else new
        commit = Commit(self.version, self.loop.now, resource, type_, old, seen_new, actor, line)
        self.history[resource].append(commit)
        for hook in self.hooks:
            hook(commit)
        for wake in tuple(self.watchers[resource]):
            wake()
        return new


def _check_fields(pod_spec: Mapping[str, Any]) -> None:
    """Strict decoding, as far as there are typos here."""
    if any("imagePullPolcy" in container for container in pod_spec.get("containers", ())):
        raise BadRequest(400, "BadRequest", 'strict decoding error: unknown field "imagePullPolcy"')


def key_of(body: Mapping[str, Any]) -> Key:
    return Key(body["metadata"].get("namespace", ""), body["metadata"]["name"])


def labels_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = body["metadata"].get("labels") or {}
    return found


def owner_uids(body: Mapping[str, Any]) -> list[str]:
    return [owner["uid"] for owner in body["metadata"].get("ownerReferences", ())]


def is_live(pod: Mapping[str, Any]) -> bool:
    """The pod may still run."""
    return pod["status"].get("phase") not in ("Succeeded", "Failed")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """It runs, passes its readiness probe and is not ending."""
    conditions = pod["status"].get("conditions", ())
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _ends_gracefully(pod: Body) -> bool:
    return bool(pod["spec"].get("nodeName")) and is_live(pod)


def _has(body: Body, labels: Mapping[str, str]) -> bool:
    if not labels:
        return True
    own = labels_of(body)
    return all(own.get(name) == value for name, value in labels.items())


def node_body(name: str, ready: str) -> Body:
    """A node; `ready` is True or Unknown."""
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}
