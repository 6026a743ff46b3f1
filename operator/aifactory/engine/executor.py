"""Carrying out writes: concurrently, bounded, and with the answers put into the stores.

One executor is shared by all controllers of a process: its bound is what the API server sees. It sorts failures into
three sorts: those that mean the goal is reached already (a delete of what is gone), those that pass by waiting, and
those that are refusals, which the user must get to read.

A call holds its place in the gate while it is under way, and gives it up while it waits to be sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from aifactory.api.names import FIELD_MANAGER
from aifactory.engine.gate import Gate
from aifactory.engine.plan import Apply, Create, Delete, DryRun, Patch, PatchStatus, Subject, Write, WriteError
from aifactory.kube.api import Api
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.depth import shallow
from aifactory.kube.errors import AlreadyExists, ApiError, BadRequest, Conflict, KubeError, NotFound, Unreachable
from aifactory.kube.objects import PartialObject
from aifactory.kube.patch import merge_difference
from aifactory.kube.resources import Key, Resource
from aifactory.kube.retry import repeat
from aifactory.kube.store import Store

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT: Final = 42
"""Writes under way at once: 32 of a namespace that writes alone, and ten that are left for others (`kube.places`). More
does not make an API server faster; it makes everybody else's calls slower."""
MAX_PER_PLAN: Final = 24
"""Of those, how many one plan may have: a job of a thousand pods leaves room for the others."""
STATUS_PATIENCE: Final = 2.0
"""Seconds for which a status gives way to the writes it tells of, when not all can be under way."""
_CAN_NOT_TELL: Final = "does not support dry run"
"""What an API server says of an admission webhook that has effects of its own."""


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
        api: the API server; each call is sent once.
        stores: where answers go, by resource. Plans name kinds; these are the kinds that they may name.
        max_in_flight: bound over everything this executor does.
        clock: the time.
        rng: source of jitter.
    """

    def __init__(
        self,
        api: Api,
        stores: Mapping[Resource, Store[Any]],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._stores = stores
        self._resources = {resource.kind: resource for resource in stores}
        self._gate = Gate(max_in_flight, clock or SystemClock())
        self._rng = rng or random.Random()

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
        key, difference = subject.key, merge_difference(subject.status, status)

        async def attempt() -> bytes | None:
            async with self._gate.slot(key.namespace, STATUS_PATIENCE, outdated) as wanted:
                if not wanted:
                    return None
                return await self._api.patch_status(
                    resource, key.namespace, key.name, difference, resource_version=subject.resource_version
                )

        raw = await repeat("PATCH", attempt, self._rng)
        if raw is None:
            return False
        self._take(resource, raw, origin=origin)
        return True

    # --- Inside ---

    async def _many(self, namespace: str, writes: Sequence[Write]) -> list[WriteError | KubeError | None]:
        """A few tasks take the writes one after another: a thousand writes need no thousand tasks."""
        # A task group takes a write that was cancelled from inside for one that has ended well.
        failures: list[WriteError | KubeError | None] = [_NOT_DONE] * len(writes)
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
                await self._apply(resource, namespace, write)
            case Delete():
                await self._delete(resource, Key(namespace, write.name), write.uid)
            case Patch():
                await self._patch(resource, namespace, write)
            case PatchStatus():
                await self._patch_status(resource, namespace, write)
            case DryRun():
                await self._dry_run(resource, namespace, write)

    async def _create(self, resource: Resource, namespace: str, write: Create) -> None:
        """Create, or accept what exists if it is ours. A stale view costs two calls here, never a second object."""
        try:
            raw = await self._send("POST", namespace, partial(self._api.create, resource, write.body))
        except AlreadyExists as taken:
            raw = await self._existing(resource, namespace, write, taken)
            metadata = _decode_identity(raw).metadata
            if write.shared:
                # Whoever made it need not have given it our labels, by which the watch would show it.
                self._take(resource, raw, unwatched=True)
            elif metadata.labels.items() >= write.body["metadata"].get("labels", {}).items():
                # Without our labels no watch would show what becomes of it.
                self._take(resource, raw)
            if self._stores[resource].get(metadata.namespace, metadata.name) is None:
                # Deleted since, or our watch does not show it: nothing would wake the key.
                name = f"{write.kind} {metadata.key}"
                logger.warning("%s exists, but the watch does not show it; were its labels changed?", name)
                raise Conflict(409, "Conflict", f"{name} exists, but the watch does not show it") from taken
        else:
            self._take(resource, raw)

    async def _dry_run(self, resource: Resource, namespace: str, write: DryRun) -> None:
        try:
            await self._send("DRYRUN", namespace, partial(self._api.create, resource, write.body, dry_run=True))
        except AlreadyExists:
            return
        except BadRequest as error:
            if _CAN_NOT_TELL not in error.message:
                raise

    async def _existing(self, resource: Resource, namespace: str, write: Create, taken: AlreadyExists) -> bytes:
        """The object that has the name, if it is ours; else raises `taken`."""
        try:
            raw = await self._send("GET", namespace, partial(self._api.get, resource, namespace, write.name))
        except NotFound:
            raise Conflict(409, "Conflict", f"{write.name} was there and is gone: look again") from taken
        if write.shared or _controller(write.body) == _controller_of(raw) is not None:
            return raw
        raise taken

    async def _apply(self, resource: Resource, namespace: str, write: Apply) -> None:
        # The server compares the UID: an object made anew under the name is a conflict, and so is none at all.
        body = {**write.body, "metadata": {**write.body["metadata"], "uid": write.uid}}
        send = partial(self._api.apply, resource, body, field_manager=FIELD_MANAGER)
        self._take(resource, await self._send("APPLY", namespace, send))

    async def _delete(self, resource: Resource, key: Key, uid: str) -> None:
        store = self._stores[resource]
        known = store.get(*key)
        try:
            send = partial(self._api.delete, resource, key.namespace, key.name, uid=uid)
            raw = await self._send("DELETE", key.namespace, send)
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
            send = partial(self._api.patch, resource, namespace, write.name, write.body)
            self._take(resource, await self._send("PATCH", namespace, send))
        except NotFound:
            return

    async def _patch_status(self, resource: Resource, namespace: str, write: PatchStatus) -> None:
        version = write.resource_version
        try:
            send = partial(self._api.patch_status, resource, namespace, write.name, write.status)
            self._take(resource, await self._send("PATCH", namespace, partial(send, resource_version=version)))
        except NotFound:
            return

    async def _send(self, verb: str, namespace: str, send: Callable[[], Awaitable[bytes]]) -> bytes:
        """One call, and another where that may help; each try has a place of its own. The answer is shallow."""

        async def attempt() -> bytes:
            async with self._gate.slot(namespace):
                return await send()

        return shallow(await repeat(verb, attempt, self._rng))

    def _take(self, resource: Resource, raw: bytes, *, origin: str = "", unwatched: bool = False) -> None:
        store = self._stores[resource]
        try:
            if unwatched:
                store.put_unwatched(raw)
            else:
                store.put_response(raw, origin=origin)
        except Exception:
            # The write was done; the watch will bring the object, or report that it can not be understood.
            logger.exception("the answer to a write of %s could not be read", resource)


_NOTHING_WRONG: Final = Outcome()
_NOT_DONE: Final = Unreachable("it was cancelled from inside")


def _controller(body: Mapping[str, Any]) -> str | None:
    owners = body["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _controller_of(raw: bytes) -> str | None:
    owner = _decode_identity(raw).metadata.controller
    return owner.uid if owner is not None else None
