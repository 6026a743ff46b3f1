"""kopf as the shell: it watches our three kinds and hands every event to a store. It decides and writes nothing.

Only `on.event` handlers are used, and the storages in which kopf would keep its own state on users' objects do nothing,
so no annotation and no finalizer of ours can ever appear on them. One gap of kopf is closed here: a deletion during a
broken watch is not reported, so the kinds are listed (metadata only) after every list of kopf's and now and then, and
what is gone is dropped: until then its children would be made again as often as the garbage collector removes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import aiohttp
import kopf
import msgspec

from aifactory.api import names
from aifactory.engine.custom import Stored
from aifactory.kube.api import Api
from aifactory.kube.errors import KubeError
from aifactory.kube.objects import ObjectList, PartialObject, decoder
from aifactory.kube.resources import Resource
from aifactory.kube.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

AUDIT_SECONDS = 300.0
"""How long a deletion that kopf did not see may stay unnoticed, when nothing tells that kopf's watch had broken."""
LISTED_SECONDS = 2.0
"""From a list of kopf's to an audit."""
SYNC_POLL_SECONDS = 0.05
LIST_PAGE = 500


class NoStorage(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """Keeps nothing: we have no handlers whose state would need keeping."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence

    def flush(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind of ours: where it is served, how it is parsed, where it is kept."""

    resource: Resource
    parse: Callable[[Mapping[str, Any]], Stored[Any]]
    store: Store[Any]
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    """kopf has listed anew, so what it had not seen deleted is still in the store."""


def registry(kinds: Collection[Watched], login: Callable[[], kopf.AiohttpSession]) -> kopf.OperatorRegistry:
    """The handlers: one for each kind, and the login with our own session."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def _login(**_: Any) -> kopf.AiohttpSession:
        return login()

    for kind in kinds:
        _watch(handlers, kind)
    return handlers


def _watch(handlers: kopf.OperatorRegistry, kind: Watched) -> None:
    resource = kind.resource

    @kopf.on.event(resource.group, resource.version, resource.plural, registry=handlers, id=resource.plural)
    async def _event(event: Mapping[str, Any], **_: Any) -> None:
        take(kind, event["type"], event["object"])


def notice_lists(kinds: Collection[Watched]) -> aiohttp.ClientMiddlewareType:
    """What notices in kopf's own HTTP session that kopf lists a kind: of an empty list no handler hears."""

    async def notice(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        response = await handler(request)
        if request.method == "GET" and response.ok and "watch" not in request.url.query:
            for kind in kinds:
                if request.url.path.endswith(f"/{kind.resource.plural}"):
                    kind.listed.set()
        return response

    return notice


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


def take(kind: Watched, type_: str | None, body: Mapping[str, Any]) -> None:
    """Put one event into the store; `None` is the type of what was there before the watch began."""
    if type_ == "MODIFIED" and _is_echo(kind.store, body["metadata"]):
        return  # of a write of ours, whose answer told everything; parsing is the dear part
    stored = kind.parse(body)
    if type_ == "DELETED":
        kind.store.remove(stored)
    else:
        kind.store.put(stored, background=type_ is None)


def settings(*, request_timeout: float = 30.0, silence: float = 90.0) -> kopf.OperatorSettings:
    """kopf's settings, where its defaults do not fit; a watch that is silent for `silence` seconds is begun again."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    # What we watch is known: kopf need not look for it, and RBAC need not allow it.
    chosen.scanning.disabled = True
    chosen.persistence.finalizer = f"{names.GROUP}/unused"
    storage = NoStorage()
    chosen.persistence.diffbase_storage = storage
    chosen.persistence.progress_storage = storage
    chosen.networking.request_timeout = request_timeout
    # A watcher that fails for longer than the sum ends the process; an API server may be away for an hour.
    # Of all waits the last decides how late the end of an outage is noticed, so it is short.
    chosen.networking.error_backoffs = [1, 1, 2, 3, *[5] * 720]
    chosen.watching.server_timeout = 600
    chosen.watching.inactivity_timeout = silence
    chosen.queueing.idle_timeout = 0.5
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    return chosen


async def wait_listed(api: Api, kinds: Collection[Watched], namespace: str | None, seconds: float = 120.0) -> None:
    """Wait until the stores know every object that exists now: a plan made from half a list would be wrong.

    Raises:
        TimeoutError: kopf has not delivered them in time.
        KubeError: the API server refuses to list them.
    """
    try:
        async with asyncio.timeout(seconds):
            for kind in kinds:
                list_ = partial(_list, api, kind.resource, namespace)
                listed, _ = await patiently(kind.resource.plural, list_)
                while not all(_known(kind.store, entry) for entry in listed):
                    await asyncio.sleep(SYNC_POLL_SECONDS)
                    if all(_known(kind.store, entry) for entry in listed):
                        break
                    # What was deleted meanwhile never comes: look again now and then.
                    listed, _ = await patiently(kind.resource.plural, list_)
    except TimeoutError:
        raise TimeoutError(f"the custom resources could not all be read within {seconds:.0f} s") from None


async def patiently(what: str, read: Callable[[], Awaitable[T]]) -> T:
    """Read until the API server answers. Raises KubeError for an answer that waiting does not improve."""
    while True:
        try:
            return await read()
        except KubeError as error:
            if not error.retryable:
                raise
            logger.warning("%s: read again: %s", what, error)
        await asyncio.sleep(LISTED_SECONDS)


async def refresh(api: Api, kind: Watched, namespace: str | None) -> None:
    """Bring a store to what the API server holds now, whatever kopf has not told yet. Raises KubeError."""
    uids: set[str] = set()
    token = version = ""
    while True:
        page = _decode_bodies(await api.list(kind.resource, namespace=namespace, limit=LIST_PAGE, continue_=token))
        for body in page.items or ():
            stored = kind.parse(body)
            uids.add(stored.metadata.uid)
            kind.store.put(stored)
        version = version or page.metadata.resource_version
        token = page.metadata.continue_
        if not token:
            break
    kind.store.retain(uids, version)


async def audit(api: Api, kinds: Collection[Watched], namespace: str | None) -> None:
    """For ever: drop objects whose deletion was not reported; ends when cancelled."""
    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(_audit(api, kind, namespace))


async def _audit(api: Api, kind: Watched, namespace: str | None) -> None:
    kind.listed.clear()
    while True:
        try:
            async with asyncio.timeout(AUDIT_SECONDS):
                await kind.listed.wait()
                await asyncio.sleep(LISTED_SECONDS)
        except TimeoutError:
            pass
        kind.listed.clear()
        try:
            listed, version = await _list(api, kind.resource, namespace)
        except (KubeError, aiohttp.ClientError, msgspec.MsgspecError) as error:
            logger.warning("looking for deleted %s failed, it is tried again: %s", kind.resource.plural, error)
            await asyncio.sleep(LISTED_SECONDS)
            kind.listed.set()
            continue
        gone = kind.store.retain({entry.metadata.uid for entry in listed}, version)
        if gone:
            logger.warning("%d deleted %s had not been reported by the watch", gone, kind.resource.plural)


def _is_echo(store: Store[Any], metadata: Mapping[str, Any]) -> bool:
    known = store.get(metadata.get("namespace", ""), metadata["name"])
    return known is not None and bool(known.metadata.resource_version == metadata.get("resourceVersion"))


def _known(store: Store[Any], entry: PartialObject) -> bool:
    found = store.get(entry.metadata.namespace, entry.metadata.name)
    return found is not None and found.metadata.uid == entry.metadata.uid


_decode = decoder(ObjectList[PartialObject])
_decode_bodies = decoder(ObjectList[dict[str, Any]])


async def _list(api: Api, resource: Resource, namespace: str | None) -> tuple[list[PartialObject], str]:
    entries: list[PartialObject] = []
    token = version = ""
    while True:
        raw = await api.list(resource, namespace=namespace, limit=LIST_PAGE, continue_=token, metadata_only=True)
        page = _decode(raw)
        entries += page.items or ()
        version = version or page.metadata.resource_version
        token = page.metadata.continue_
        if not token:
            return entries, version
