"""Keeping a store true: list once, then watch for ever.

An informer lists a resource page by page, puts what it finds into its store, drops what is no longer there, and then
follows the watch from the list's resource version. It ends only when it is cancelled: whatever fails is counted, logged
once per kind of failure and tried again with growing, jittered delays.

A list of a hundred thousand objects is never in memory as a whole, and never holds up the event loop: each page goes
into the store and is forgotten, what is known already costs next to nothing, and the loop turns every few hundred
objects. A list that fails half-way leaves what it has told; that is true, and the next one tells the rest.

What always holds:
- The store is `synced` only after one complete list.
- A watch is resumed from the last version seen; a list is only repeated when the server says that version is gone (410,
  as an HTTP status or as an ERROR event), and then the difference, deletions included, is told like any other change.
- A watch that is silent for longer than bookmarks allow is taken for dead, although its connection looks alive.
- An object that can not be decoded is counted and skipped; it does not hide the others.

Order: events are taken in in the order they come, without giving the event loop away in between; so `Store.advance`
may claim that everything up to the newest version has been seen. Of a list that is claimed after its last page.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable, Sequence, Set
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from aifactory.kube import metrics
from aifactory.kube.api import Api
from aifactory.kube.backoff import WATCH
from aifactory.kube.clock import Clock, SystemClock
from aifactory.kube.errors import ApiError, Gone, KubeError, error_for
from aifactory.kube.objects import KubeObject, ObjectList, PartialObject, Status, WatchEvent
from aifactory.kube.resources import Resource
from aifactory.kube.store import Store, version_number

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=KubeObject)

PAGE_SIZE: Final = 1000
"""Objects per page of a list: bounds the memory a list needs, and for how long decoding it holds the event loop."""
SLICE: Final = 250
"""Objects taken in without giving the event loop away: a few milliseconds."""
WATCH_SECONDS: Final = 300
SILENCE_SECONDS: Final = 90.0
"""The server sends a bookmark about every minute; a watch that is silent for longer is dead."""


class _Typed(msgspec.Struct, frozen=True, gc=False):
    """An event before it is known what it carries."""

    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    resource_version: str


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    """What even a bookmark has."""

    metadata: _Version


class Informer(Generic[T]):
    """Keeps a store of one resource true.

    Args:
        api: the API server.
        resource: what to watch.
        type_: the struct objects are decoded into.
        store: where they go; its subscribers are told of every change.
        namespace: one namespace, or None for all.
        label_selector: only objects with these labels.
        rng: source of jitter.
        clock: for measuring silence.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        type_: type[T],
        store: Store[T],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        silence_seconds: float = SILENCE_SECONDS,
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.resource = resource
        self.store = store
        self.synced = asyncio.Event()
        """Set after the first complete list; never unset."""
        self._api = api
        self._namespace = namespace
        self._label_selector = label_selector
        self._silence = silence_seconds
        self._rng = rng or random.Random()
        self._clock = clock or SystemClock()
        self._page = msgspec.json.Decoder(cast("type[ObjectList[T]]", ObjectList[type_]))  # type: ignore[valid-type]
        self._event = msgspec.json.Decoder(cast("type[WatchEvent[T]]", WatchEvent[type_]))  # type: ignore[valid-type]
        self._object = msgspec.json.Decoder(type_)
        self._version = ""
        self._failures = 0
        self._expiries = 0
        self._last_error = ""
        self._heard = float("-inf")
        name = str(resource)
        self._objects = metrics.INFORMER_OBJECTS.labels(name)
        self._counters = {
            type_name: metrics.INFORMER_EVENTS.labels(name, type_name)
            for type_name in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
        }

    def silent_seconds(self) -> float:
        """Seconds since the server was last heard of; infinite before the first list. For liveness checks."""
        return self._clock.monotonic() - self._heard

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Gone:
                await self._forget_version()
            except Exception as error:  # an informer that died would be a controller that stands still
                await self._pause(error)

    async def refresh(self) -> None:
        """Bring the store to what the server holds now, whatever the watch has not told yet. Raises KubeError."""
        await self._list()

    # --- List ---

    async def _list(self) -> None:
        """Read everything, page by page, and bring the store to that state."""
        background = not self.synced.is_set()
        listed: set[str] = set()
        version = continue_ = ""
        while True:
            page = self._decode_page(
                await self._api.list(
                    self.resource,
                    namespace=self._namespace,
                    label_selector=self._label_selector,
                    limit=PAGE_SIZE,
                    continue_=continue_,
                )
            )
            # All pages are of the first one's version, unless the server could not keep it; the oldest is safe.
            version = version or page.metadata.resource_version
            continue_ = page.metadata.continue_
            await put_listed(self.store, page.items or (), listed, background=background)
            if not continue_:
                break
        await drop_missing(self.store, listed, version)
        # A watch that runs beside a refresh may have got further.
        if version_number(version) >= version_number(self._version):
            self._version = version
        metrics.INFORMER_LISTS.labels(str(self.resource), "first" if background else "again").inc()
        self._objects.set(len(self.store))
        self._recovered()
        self.synced.set()

    def _decode_page(self, raw: bytes) -> ObjectList[T]:
        try:
            return self._page.decode(raw)
        except msgspec.ValidationError:
            # One object does not fit: take the page apart to keep the others.
            loose = msgspec.json.decode(raw, type=ObjectList[msgspec.Raw])
            items = tuple(obj for item in loose.items or () if (obj := self._decode_object(item)) is not None)
            return ObjectList(metadata=loose.metadata, items=items)

    # --- Watch ---

    async def _watch(self) -> None:
        """Follow one watch to its end."""
        stream = self._api.watch(
            self.resource,
            resource_version=self._version,
            namespace=self._namespace,
            label_selector=self._label_selector,
            timeout_seconds=int(WATCH_SECONDS * (1.0 + 0.2 * self._rng.random())),
        )
        started = self._clock.monotonic()
        async with aclosing(cast("Any", stream)):
            while (batch := await self._next(stream)) is not None:
                for line in batch:
                    self._take(line)
                self._objects.set(len(self.store))
                self._expiries = 0
                self._recovered()
        if self._clock.monotonic() - started < 1.0:
            # A server that ends watches at once must not be asked again at once.
            await asyncio.sleep(WATCH.delay(1, self._rng))

    async def _next(self, stream: AsyncIterator[Sequence[bytes]]) -> Sequence[bytes] | None:
        """What came next, or None when the watch has ended or is silent for too long."""
        try:
            async with asyncio.timeout(self._silence):
                return await anext(stream, None)
        except TimeoutError:
            metrics.INFORMER_STALLS.labels(str(self.resource)).inc()
            logger.warning("watch of %s: nothing for %.0f s, watching again", self.resource, self._silence)
            return None

    def _take(self, line: bytes) -> None:
        """Bring one event into the store."""
        try:
            event = self._event.decode(line)
        except msgspec.MsgspecError:
            self._take_unusual(line)
            return
        self._counters[event.type].inc()
        obj = event.object
        version = obj.metadata.resource_version
        if event.type == "DELETED":
            self.store.remove(obj)
        elif event.type != "BOOKMARK":
            self.store.put(obj)
        self._passed(version)

    def _take_unusual(self, line: bytes) -> None:
        """An event that is not an object of the expected shape: an error, a bookmark without a name, or nonsense."""
        event = msgspec.json.decode(line, type=_Typed)
        if event.type == "ERROR":
            self._counters["ERROR"].inc()
            status = msgspec.json.decode(event.object, type=Status)
            raise error_for(status.code or 500, status.reason, status.message, status.details)
        version = msgspec.json.decode(event.object, type=_Versioned).metadata.resource_version
        if event.type == "BOOKMARK":
            self._counters["BOOKMARK"].inc()
        elif event.type == "DELETED":
            # Deletion needs the identity only.
            gone = msgspec.json.decode(event.object, type=PartialObject).metadata
            self.store.delete(gone.key, gone.uid, gone.resource_version)
        else:
            self._decode_object(event.object)  # counts and logs it
        self._passed(version)

    def _passed(self, version: str) -> None:
        """Everything up to `version` is known. An event that is repeated does not take us back."""
        if version_number(version) > version_number(self._version):
            self._version = version
            self.store.advance(version)

    def _decode_object(self, raw: bytes | msgspec.Raw) -> T | None:
        try:
            return self._object.decode(raw)
        except msgspec.MsgspecError as error:
            metrics.INFORMER_UNDECODABLE.labels(str(self.resource)).inc()
            logger.error("an object of %s is skipped because it has an unexpected shape: %s", self.resource, error)
            return None

    # --- Failures ---

    async def _forget_version(self) -> None:
        """List again, soon, but not in a tight loop if the server forgets each version it names."""
        self._expiries += 1
        logger.info("watch of %s: version %s is gone, listing again", self.resource, self._version or "of the list")
        metrics.INFORMER_ERRORS.labels(str(self.resource), "Expired").inc()
        self._version = ""
        await asyncio.sleep(WATCH.delay(self._expiries, self._rng))

    def _recovered(self) -> None:
        self._heard = self._clock.monotonic()
        if self._failures:
            logger.info("watch of %s works again", self.resource)
        self._failures = 0
        self._last_error = ""

    async def _pause(self, error: Exception) -> None:
        """Count and tell a failure, then wait before the next try."""
        self._failures += 1
        kind = error.reason or str(error.status) if isinstance(error, ApiError) else type(error).__name__
        metrics.INFORMER_ERRORS.labels(str(self.resource), kind).inc()
        if kind != self._last_error:
            self._last_error = kind
            expected = isinstance(error, KubeError)
            logger.warning("watch of %s fails and is tried again: %s", self.resource, error, exc_info=not expected)
        delay = WATCH.delay(self._failures, self._rng)
        await asyncio.sleep(max(delay, min(getattr(error, "retry_after", None) or 0.0, WATCH.limit)))


async def put_listed(store: Store[T], objects: Iterable[T], listed: set[str], *, background: bool = False) -> None:
    """Take in a piece of a list and note its UIDs in `listed`; the event loop turns now and then."""
    for number, obj in enumerate(objects, start=1):
        store.put_listed(obj, listed, background=background)
        if number % SLICE == 0:
            await asyncio.sleep(0)


async def drop_missing(store: Store[Any], listed: Set[str], version: str) -> int:
    """The list read at `version` is complete: drop what it did not contain; returns how many objects that were."""
    store.advance(version)
    missing = store.missing(listed, version)
    for number, (key, uid) in enumerate(missing, start=1):
        store.delete(key, uid, version)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return len(missing)
