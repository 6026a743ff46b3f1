"""What kopf watches for us, and what stands between it and the API server: middlewares of its HTTP session.

kopf is made to list nothing (we list, see `shell`), to wait for a token that works, and to be shown nothing that its
parser can not read, and no echo of what we have written: two of three events in the life of a job are that, and kopf
takes longer over one than we take to decide about the job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec

from aifactory.engine.custom import Stored
from aifactory.kube.depth import shallow
from aifactory.kube.objects import Struct, decoder
from aifactory.kube.resources import Resource
from aifactory.kube.store import Store

T = TypeVar("T")

NOTHING = "metadata.name=-"
"""A field selector that no object can match: a name begins with a letter or a digit."""


@dataclass(slots=True)
class Heard:
    """A moment of the event loop's clock."""

    at: float = float("-inf")

    def now(self) -> None:
        """It is heard of."""
        self.at = asyncio.get_running_loop().time()

    def silent_seconds(self) -> float:
        """Seconds since then; infinite when it never was."""
        return asyncio.get_running_loop().time() - self.at


class Identity(Struct, frozen=True, gc=False):
    """Which object it is, in which version."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Identified(Struct, frozen=True, gc=False):
    """An object of which nothing else is read."""

    metadata: Identity


class _Event(Struct, frozen=True, gc=False):
    type: str
    object: Identified


def reading(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Decode also what nests too deep to be skipped over; looking for that first would cost more than decoding."""

    def read(raw: bytes) -> T:
        try:
            return decode(raw)
        except RecursionError:
            return decode(shallow(bytes(raw)))

    return read


_decode_event = reading(decoder(_Event))


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind of ours: where it is served, how it is parsed, where it is kept."""

    resource: Resource
    parse: Callable[[Mapping[str, Any]], Stored[Any]]
    store: Store[Any]
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    """kopf has listed, that is begun to watch anew: what happened before is still to be read (`refresh`)."""
    heard: Heard = field(default_factory=Heard)
    """When kopf's watch was last heard of."""

    def knows(self, namespace: str, name: str, version: str) -> bool:
        """Whether that version of an object is in the store already: as the answer to a write of ours, mostly."""
        known = self.store.get(namespace, name)
        return known is not None and known.metadata.resource_version == version


def list_nothing(kinds: Collection[Watched]) -> aiohttp.ClientMiddlewareType:
    """What makes kopf's own lists of a kind find nothing, and notices them."""
    by_plural = {kind.resource.plural: kind for kind in kinds}

    async def narrow(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        kind = by_plural.get(request.url.name) if request.method == "GET" else None
        if kind is None or "watch" in request.url.query:
            return await handler(request)
        request.url = request.url.update_query(fieldSelector=NOTHING)
        response = await handler(request)
        if response.ok:
            kind.listed.set()
        return response

    return narrow


async def refused_is_away(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Have kopf wait for a token that works as it waits for an API server that is away.

    For a 401 kopf would log in again and close its session under its other requests, which may then end the process.
    The token is read anew for each request (`auth.SessionProvider`), so there is nothing to log in to.
    """
    response = await handler(request)
    if response.status == 401:
        response.close()
        raise aiohttp.ClientConnectionError("401 Unauthorized: is the token revoked or expired?")
    return response


def readable(kinds: Collection[Watched]) -> aiohttp.ClientMiddlewareType:
    """What has kopf read every object of a watch without the levels that its parser can not read.

    A RecursionError in it would end kopf; the next start would watch the same object and end the same way.
    """
    by_plural = {kind.resource.plural: kind for kind in kinds}

    async def wrap(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        kind = by_plural.get(request.url.name) if "watch" in request.url.query else None
        if response.ok and kind is not None:
            # As far as kopf uses it.
            response.content = _Readable(response.content, kind)  # type: ignore[assignment]
        return response

    return wrap


class _Readable:
    """The lines of a watch that are news, each of them shallow. Whenever some have come, the kind is heard of."""

    def __init__(self, stream: aiohttp.StreamReader, kind: Watched) -> None:
        self._stream = stream
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's: whoever closes the response tells it so."""
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncGenerator[bytes, None]:
        """Whole lines, as many at a time as have arrived."""
        rest = b""
        async for chunk in self._stream.iter_chunked(size):
            self._kind.heard.now()
            *lines, rest = (rest + chunk).split(b"\n")
            if news := [shallow(line) + b"\n" for line in lines if not self._is_echo(line)]:
                yield b"".join(news)
        if rest:
            yield shallow(rest)

    def _is_echo(self, line: bytes) -> bool:
        """Bookmarks and errors are none: kopf has to see where a watch stands."""
        try:
            event = _decode_event(line)
        except msgspec.MsgspecError:
            return False
        found = event.object.metadata
        changed = event.type in ("ADDED", "MODIFIED")
        return changed and self._kind.knows(found.namespace, found.name, found.resource_version)
