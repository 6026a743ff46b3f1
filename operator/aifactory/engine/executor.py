"""Carrying out writes: concurrently, bounded, and with the answers put into the stores.

One executor is shared by all controllers of a process: its bound is what the API server sees. It sorts failures into
three sorts: those that mean the goal is reached already (a delete of what is gone), those that pass by waiting, and
those that are refusals, which the user must get to read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aifactory.api.names import FIELD_MANAGER
from aifactory.engine.gate import Gate
from aifactory.engine.plan import Apply, Create, Delete, Patch, Subject, Write, WriteError
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import AlreadyExists, ApiError, Conflict, KubeError, NotFound
from aifactory.kube.objects import PartialObject
from aifactory.kube.patch import merge_difference
from aifactory.kube.resources import Key, Resource
from aifactory.kube.store import Store

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 32
"""Writes under way at once. More does not make an API server faster; it makes everybody else's calls slower."""
MAX_PER_PLAN: Final = 24
"""Of those, how many one plan may have: a job of a thousand pods leaves room for the others."""
STATUS_PATIENCE: Final = 2.0
"""Seconds for which a status gives way to the writes it tells of, when not all can be under way."""


class _Head(msgspec.Struct, frozen=True, gc=False):
    kind: str = ""


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_identity = msgspec.json.Decoder(PartialObject).decode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan's writes."""

    refused: tuple[WriteError, ...] = ()
    passing: KubeError | None = None
    """A failure that goes away by waiting or by looking again."""


class Executor:
    """Carries out writes.

    Args:
        api: the API server.
        stores: where answers go, by resource. Plans name kinds; these are the kinds that they may name.
        max_in_flight: bound over everything this executor does.
        clock: the time.
    """

    def __init__(
        self,
        api: Api,
        stores: Mapping[Resource, Store[Any]],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        clock: Clock | None = None,
    ) -> None:
        self._api = api
        self._stores = stores
        self._resources = {resource.kind: resource for resource in stores}
        self._gate = Gate(max_in_flight, clock or SystemClock())

    @property
    def write_seconds(self) -> float:
        """What a write takes at the moment."""
        return self._gate.seconds

    async def run(self, namespace: str, writes: Sequence[Write]) -> Outcome:
        """Carry out all writes in a namespace, also when some fail."""
        if not writes:
            return _NOTHING_WRONG
        if len(writes) == 1:
            failures = [await self._one(namespace, writes[0])]
        else:
            failures = await self._many(namespace, writes)
        refused = tuple(failure for failure in failures if isinstance(failure, WriteError))
        passing = next((failure for failure in failures if isinstance(failure, KubeError)), None)
        return Outcome(refused, passing)

    async def write_status(
        self,
        resource: Resource,
        subject: Subject,
        status: Mapping[str, Any],
        *,
        origin: str,
        outdated: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Write the difference between the subject's status and `status`, on top of exactly what was observed.

        Returns:
            False, and nothing was written, if it had to wait and was `outdated` when its turn came.

        Raises:
            Conflict: the object has changed since.
            NotFound: it is gone.
            KubeError: anything else.
        """
        async with self._gate.slot(STATUS_PATIENCE, outdated) as wanted:
            if not wanted:
                return False
            raw = await self._api.patch_status(
                resource,
                subject.key.namespace,
                subject.key.name,
                merge_difference(subject.status, status),
                resource_version=subject.resource_version,
            )
        self._take(resource, raw, origin=origin)
        return True

    # --- Inside ---

    async def _many(self, namespace: str, writes: Sequence[Write]) -> list[WriteError | KubeError | None]:
        """A few tasks take the writes one after another: a thousand writes need no thousand tasks."""
        failures: list[WriteError | KubeError | None] = [None] * len(writes)
        remaining = iter(enumerate(writes))

        async def work() -> None:
            for number, write in remaining:
                # In the order of the plan, not of the answers: the first one's words go into a status.
                failures[number] = await self._one(namespace, write)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(writes), MAX_PER_PLAN)):
                group.create_task(work())
        return failures

    async def _one(self, namespace: str, write: Write) -> WriteError | KubeError | None:
        try:
            async with self._gate.slot():
                await self._do(namespace, write)
        except KubeError as error:
            if error.retryable or isinstance(error, Conflict) or not isinstance(error, ApiError):
                return error
            return WriteError(write, error)
        return None

    async def _do(self, namespace: str, write: Write) -> None:
        resource = self._resources[write.kind]
        match write:
            case Create():
                await self._create(resource, namespace, write)
            case Apply():
                await self._apply(resource, write)
            case Delete():
                await self._delete(resource, Key(namespace, write.name), write.uid)
            case Patch():
                await self._patch(resource, namespace, write)

    async def _create(self, resource: Resource, namespace: str, write: Create) -> None:
        """Create, or accept what exists if it is ours. A stale view costs two calls here, never a second object."""
        try:
            raw = await self._api.create(resource, write.body)
        except AlreadyExists as taken:
            raw = await self._existing(resource, namespace, write, taken)
            metadata = _decode_identity(raw).metadata
            if write.shared or metadata.labels.items() >= write.body["metadata"].get("labels", {}).items():
                # Without our labels no watch would show what becomes of it.
                self._take(resource, raw)
            if self._stores[resource].get(metadata.namespace, metadata.name) is None:
                # Deleted since, or our watch does not show it: nothing would wake the key.
                name = f"{write.kind} {metadata.key}"
                logger.warning("%s exists, but the watch does not show it; were its labels changed?", name)
                raise Conflict(409, "Conflict", f"{name} exists, but the watch does not show it") from taken
        else:
            self._take(resource, raw)

    async def _existing(self, resource: Resource, namespace: str, write: Create, taken: AlreadyExists) -> bytes:
        """The object that has the name, if it is ours; else raises `taken`."""
        try:
            raw = await self._api.get(resource, namespace, write.name)
        except NotFound:
            raise Conflict(409, "Conflict", f"{write.name} was there and is gone: look again") from taken
        if write.shared or _controller(write.body) == _controller_of(raw) is not None:
            return raw
        raise taken

    async def _apply(self, resource: Resource, write: Apply) -> None:
        # The server compares the UID: an object made anew under the name is a conflict, and so is none at all.
        body = {**write.body, "metadata": {**write.body["metadata"], "uid": write.uid}}
        self._take(resource, await self._api.apply(resource, body, field_manager=FIELD_MANAGER))

    async def _delete(self, resource: Resource, key: Key, uid: str) -> None:
        store = self._stores[resource]
        known = store.get(*key)
        try:
            raw = await self._api.delete(resource, key.namespace, key.name, uid=uid)
            if _decode_head(raw).kind == resource.kind:
                self._take(resource, raw)
                return
        except NotFound:
            pass
        # It is gone; whoever asked has seen `known`, and nothing up to its version can come back.
        if known is not None:
            store.delete(key, uid, known.metadata.resource_version)

    async def _patch(self, resource: Resource, namespace: str, write: Patch) -> None:
        try:
            self._take(resource, await self._api.patch(resource, namespace, write.name, write.body))
        except NotFound:
            return

    def _take(self, resource: Resource, raw: bytes, *, origin: str = "") -> None:
        try:
            self._stores[resource].put_response(raw, origin=origin)
        except Exception:
            # The write was done; the watch will bring the object, or report that it can not be understood.
            logger.exception("the answer to a write of %s could not be read", resource)


_NOTHING_WRONG: Final = Outcome()


def _controller(body: Mapping[str, Any]) -> str | None:
    owners = body["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _controller_of(raw: bytes) -> str | None:
    owner = _decode_identity(raw).metadata.controller
    return owner.uid if owner is not None else None
