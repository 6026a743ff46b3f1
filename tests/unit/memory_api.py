"""An API server in a dictionary, for injecting faults that a real one can not be asked for.

It implements `kube.api.Api` as far as the layers `kube` and `engine` use it: resource versions, generations, conflicts,
UIDs, finalizers, owner-independent deletes, watches with bookmarks and a history that can be compacted. It checks no
schema and applies no defaults; what a real server does there is tested in `tests/component`.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from aifactory.kube.api import PatchType, Propagation
from aifactory.kube.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound, Unreachable
from aifactory.kube.resources import Key, Resource

Body = dict[str, Any]


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


class MemoryApi:
    """The fault hooks: `failures[verb]` are raised one per call; `before` is awaited and `after` called for each."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.version = 100
        self.compacted = 0
        self.objects: dict[Resource, dict[Key, Body]] = defaultdict(dict)
        self.history: list[tuple[int, Resource, str, bytes]] = []
        self.calls: list[tuple[str, str, str]] = []
        self.failures: dict[str, list[Exception]] = defaultdict(list)
        self.before: Callable[[str, Resource, str], Any] | None = None
        self.bookmark_seconds = 60.0
        self.inconsistent_pages = False
        """Later pages of a list are of later versions, as when a continue token has expired on the way."""
        self.stalled = False
        """Watches deliver nothing and do not end, as behind a load balancer that forgot the connection."""
        self.lagging: set[Resource] = set()
        """Resources whose watches are stalled while the others go on."""
        self.reject_watches_with: Exception | None = None
        self.transform: Callable[[bytes], list[bytes]] = lambda line: [line]
        """What becomes of each watch event on its way: nothing, itself, twice, garbage."""
        self._uid = 0
        self._epoch = 0
        self._changed: asyncio.Event = asyncio.Event()

    # --- Faults and looks from the test's side ---

    def writes(self) -> list[tuple[str, str, str]]:
        """Calls that would change something, in order."""
        return [call for call in self.calls if call[0] not in ("get", "list", "watch")]

    def compact(self) -> None:
        """Forget history: watches from before now get 410."""
        self.compacted = self.version

    def cut_watches(self) -> None:
        """Every open watch loses its connection."""
        self._epoch += 1
        self._wake()

    def put(self, resource: Resource, namespace: str, name: str, **fields: Any) -> Body:
        """Somebody else creates or changes an object."""
        key = Key(namespace, name)
        known = self.objects[resource].get(key)
        if known is None:
            return self._insert(resource, {"metadata": {"name": name, "namespace": namespace}, **fields})
        return self._change(resource, known, {**known, **fields})

    def drop(self, resource: Resource, namespace: str, name: str) -> None:
        """Somebody else deletes an object for good."""
        self._remove(resource, Key(namespace, name))

    # --- Verbs ---

    async def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        await self._call("get", resource, name)
        return encode(self._find(resource, Key(namespace, name)))

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        metadata_only: bool = False,
    ) -> bytes:
        await self._call("list", resource, "")
        keys = sorted(self.objects[resource])
        start = 0
        version = self.version
        if continue_:
            version, last = int(continue_.split("@")[0]), Key(*continue_.split("@")[1].split("/"))
            if version <= self.compacted:
                raise Gone(410, "Expired", "the provided continue parameter is too old")
            start = sum(1 for key in keys if key <= last)
            version = self.version if self.inconsistent_pages else version
        page = keys[start : start + limit] if limit else keys[start:]
        rest = bool(page) and start + len(page) < len(keys)
        token = f"{version}@{page[-1].namespace}/{page[-1].name}" if rest else ""
        items = [self.objects[resource][key] for key in page]
        return encode({"metadata": {"resourceVersion": str(version), "continue": token}, "items": items})

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
    ) -> AsyncIterator[Sequence[bytes]]:
        await self._call("watch", resource, resource_version)
        if self.reject_watches_with is not None:
            raise self.reject_watches_with
        loop = asyncio.get_running_loop()
        seen, epoch, ends = int(resource_version), self._epoch, loop.time() + timeout_seconds
        bookmark = loop.time() + self.bookmark_seconds
        while loop.time() < ends:
            if epoch != self._epoch:
                raise Unreachable("connection lost")
            if seen < self.compacted:
                status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                yield [encode({"type": "ERROR", "object": status})]
                return
            stalled = self.stalled or resource in self.lagging
            if not stalled:
                news = [entry for entry in self.history if entry[0] > seen and entry[1] == resource]
                lines = [line for entry in news for line in self.transform(entry[3])]
                if news:
                    seen = news[-1][0]
                if loop.time() >= bookmark:
                    seen, bookmark = self.version, loop.time() + self.bookmark_seconds
                    metadata = {"resourceVersion": str(seen), "creationTimestamp": None}
                    lines.append(encode({"type": "BOOKMARK", "object": {"metadata": metadata}}))
                if lines:
                    yield lines
                    continue
            await self._wait(min(ends, ends if stalled else bookmark))

    async def create(self, resource: Resource, body: Mapping[str, Any], *, dry_run: bool = False) -> bytes:
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace", "")
        await self._call("dry run" if dry_run else "create", resource, name)
        if Key(namespace, name) in self.objects[resource]:
            raise AlreadyExists(409, "AlreadyExists", f'{resource} "{name}" already exists')
        if dry_run:
            return encode(body)
        return encode(self._insert(resource, copy.deepcopy(dict(body))))

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, field_manager: str, force: bool = True
    ) -> bytes:
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace", "")
        await self._call("apply", resource, name)
        known, uid = self.objects[resource].get(Key(namespace, name)), body["metadata"].get("uid")
        if uid not in (None, known["metadata"]["uid"] if known is not None else None):
            raise Conflict(409, "Conflict", "the UID in the request does not match")
        if known is None:
            return encode(self._insert(resource, copy.deepcopy(dict(body))))
        return encode(self._change(resource, known, merge(known, body)))

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        type: PatchType = "merge",
        resource_version: str | None = None,
    ) -> bytes:
        await self._call("patch", resource, name)
        known = self._find(resource, Key(namespace, name))
        if resource_version not in (None, known["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", "the object has been modified")
        if not isinstance(body, Mapping):
            raise Invalid(422, "Invalid", "this server knows merge patches only")
        changed = merge(known, {key: value for key, value in body.items() if key != "status"})
        return encode(self._change(resource, known, changed))

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Mapping[str, Any],
        *,
        resource_version: str | None = None,
    ) -> bytes:
        await self._call("patch_status", resource, name)
        known = self._find(resource, Key(namespace, name))
        if resource_version not in (None, known["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", "the object has been modified")
        return encode(self._change(resource, known, merge(known, {"status": status})))

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Propagation = "Background",
    ) -> bytes:
        await self._call("delete", resource, name)
        known = self._find(resource, Key(namespace, name))
        if uid not in (None, known["metadata"]["uid"]):
            raise Conflict(409, "Conflict", "the UID in the precondition does not match")
        if known["metadata"].get("finalizers"):
            metadata = {**known["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            return encode(self._change(resource, known, {**known, "metadata": metadata}))
        self._remove(resource, Key(namespace, name))
        return encode({"kind": "Status", "status": "Success"})

    # --- Inside ---

    async def _call(self, verb: str, resource: Resource, name: str) -> None:
        self.calls.append((verb, resource.kind, name))
        await asyncio.sleep(0)
        if self.before is not None:
            await self.before(verb, resource, name)
        if self.failures[verb]:
            raise self.failures[verb].pop(0)

    def _find(self, resource: Resource, key: Key) -> Body:
        known = self.objects[resource].get(key)
        if known is None:
            raise NotFound(404, "NotFound", f'{resource} "{key.name}" not found')
        return known

    def _insert(self, resource: Resource, body: Body) -> Body:
        self._uid += 1
        body["metadata"] |= {"uid": f"uid-{self._uid}", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        body |= {"apiVersion": resource.api_version, "kind": resource.kind}
        return self._store(resource, "ADDED", body)

    def _change(self, resource: Resource, known: Body, changed: Body) -> Body:
        """Store a change; one that changes nothing makes no new version, as in the real server."""
        changed = copy.deepcopy(changed)
        changed["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
        if changed == known:
            return known
        if changed.get("spec") != known.get("spec"):
            changed["metadata"]["generation"] = known["metadata"]["generation"] + 1
        return self._store(resource, "MODIFIED", changed)

    def _store(self, resource: Resource, type_: str, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        key = Key(body["metadata"].get("namespace", ""), body["metadata"]["name"])
        self.objects[resource][key] = body
        self.history.append((self.version, resource, type_, encode({"type": type_, "object": body})))
        self._wake()
        return body

    def _remove(self, resource: Resource, key: Key) -> None:
        body = copy.deepcopy(self._find(resource, key))
        del self.objects[resource][key]
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, resource, "DELETED", encode({"type": "DELETED", "object": body})))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, deadline: float) -> None:
        """Until something changed, or the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            pass


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result
