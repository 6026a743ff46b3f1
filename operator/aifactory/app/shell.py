"""kopf as the shell: it watches our three kinds and hands every event to a store. It decides and writes nothing.

Only `on.event` handlers are used, and the storages in which kopf would keep its own state on users' objects do nothing,
so no annotation and no finalizer of ours can ever appear on them.

kopf watches, we list. A list of kopf's would take a millisecond of CPU an object, and it does not tell what was deleted
while a watch was broken: children of such an object would be made again as often as the garbage collector removes them.
So kopf's lists are made to find nothing (`watching.list_nothing`): they only say from which version kopf watches on.
After each of them the kind is listed by us (`refresh`), page by page; what that list holds, and what kopf's watch tells
from then on, is everything. Now and then what is gone is looked for besides, should a broken watch have gone unnoticed.

No object can end kopf, and with it the process: what it reads nests no deeper than it can read (`watching.readable`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohttp
import kopf
import msgspec

from aifactory.api import names
from aifactory.app.options import Options
from aifactory.app.watching import Identified, Watched, list_nothing, readable, reading, refused_is_away
from aifactory.kube.api import Api
from aifactory.kube.auth import SessionProvider
from aifactory.kube.backoff import READ
from aifactory.kube.depth import shallow
from aifactory.kube.errors import KubeError
from aifactory.kube.informer import drop_missing
from aifactory.kube.objects import ListMetadata, ObjectList, decoder

logger = logging.getLogger(__name__)

T = TypeVar("T")

AUDIT_SECONDS = 300.0
"""How long a deletion that kopf did not see may stay unnoticed, when nothing tells that kopf's watch had broken."""
LIST_PAGE = 1000
SLICE = 100
"""Objects parsed without giving the event loop away: some ten milliseconds."""


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


class Shell(Protocol):
    """What brings the custom resources into the stores."""

    async def run(self, kinds: Collection[Watched], stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
        """Deliver until `stop` is set; `on_signal` is called for SIGTERM and SIGINT."""


class Kopf:
    """kopf, in this process and on our own HTTP sessions."""

    def __init__(self, provider: SessionProvider, options: Options) -> None:
        self._provider = provider
        self._options = options

    async def run(self, kinds: Collection[Watched], stop: asyncio.Event, on_signal: Callable[[], None]) -> None:
        """Deliver until `stop` is set, or until kopf ends by itself."""
        connection = self._provider.connection

        def login() -> kopf.AiohttpSession:
            return kopf.AiohttpSession(
                server=connection.server,
                default_namespace=connection.namespace,
                aiohttp_session=self._provider.session(list_nothing(kinds), refused_is_away, readable(kinds)),
            )

        namespace = self._options.namespace
        tasks = await kopf.spawn_tasks(
            registry=registry(kinds, login),
            settings=settings(silence=self._options.silence_seconds),
            # kopf would make one from the user's name, which a container's user need not have.
            identity=self._options.identity,  # type: ignore[arg-type] # a private NewType of str
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace is not None else [],
            stop_flag=stop,
        )
        # kopf has just set handlers of its own, which would end it before the workers: ours again, in the same turn.
        take_signals(on_signal)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            # When it ends, kopf waits five seconds for all tasks but these and cancels them: ours are not its own.
            await kopf.run_tasks(tasks, ignored=asyncio.all_tasks())


def take_signals(on_signal: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call `on_signal` from now on. PID 1 ignores what it has no handler for."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


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
        handle(kind, event["type"], event["object"])


def handle(kind: Watched, type_: str | None, body: Mapping[str, Any]) -> None:
    """Put one event into the store; `None` is the type of what was there before the watch began."""
    meta = body["metadata"]
    if type_ != "DELETED" and kind.knows(meta.get("namespace", ""), meta["name"], meta.get("resourceVersion", "")):
        return  # an echo whose answer came while kopf had it in hand; parsing is the dear part
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


async def fill(api: Api, kinds: Collection[Watched], namespace: str | None) -> None:
    """Fill the stores for the first time; returns when they know every object that exists.

    kopf must have begun to watch before we list, or what happens in between would be told by neither.

    Raises:
        KubeError: the API server refuses to list them.
    """
    for kind in kinds:
        await kind.listed.wait()
        kind.listed.clear()
        read = partial(refresh, api, kind, namespace, background=True)
        await retried(kind.resource.plural, read)


async def retried(what: str, read: Callable[[], Awaitable[T]]) -> T:
    """Read until the API server answers. Raises KubeError for an answer that waiting does not improve."""
    failures = 0
    while True:
        try:
            return await read()
        except KubeError as error:
            if not error.retryable:
                raise
            logger.warning("%s: read again: %s", what, error)
        failures += 1
        await asyncio.sleep(READ.delay(failures))


async def refresh(api: Api, kind: Watched, namespace: str | None, *, background: bool = False) -> None:
    """Bring a store to what the API server holds now, whatever kopf has not told yet. Raises KubeError."""
    listed: set[str] = set()
    token = version = ""
    while True:
        raw = await api.list(kind.resource, namespace=namespace, limit=LIST_PAGE, continue_=token)
        read = await _take_page(kind, raw, listed, background=background)
        version, token = version or read.resource_version, read.continue_
        if not token:
            break
    _tell_gone(kind, await drop_missing(kind.store, listed, version))


async def _take_page(kind: Watched, raw: bytes, listed: set[str], *, background: bool) -> ListMetadata:
    """Take in one page of a list; what is known in this very version is not even parsed."""
    page = _decode_page(raw)
    for number, item in enumerate(page.items or (), start=1):
        identity = _decode_object(item).metadata
        if kind.knows(identity.namespace, identity.name, identity.resource_version):
            listed.add(identity.uid)
        else:
            kind.store.put_listed(kind.parse(_decode_body(shallow(bytes(item)))), listed, background=background)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return page.metadata


async def audit(api: Api, kinds: Collection[Watched], namespace: str | None) -> None:
    """For ever: read a kind again whenever kopf's watch began anew, and look for deletions; ends when cancelled."""
    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(_audit(api, kind, namespace))


async def _audit(api: Api, kind: Watched, namespace: str | None) -> None:
    while True:
        try:
            async with asyncio.timeout(AUDIT_SECONDS):
                await kind.listed.wait()
        except TimeoutError:
            pass
        anew = kind.listed.is_set()
        kind.listed.clear()
        try:
            await (refresh if anew else _drop_deleted)(api, kind, namespace)
        except (KubeError, aiohttp.ClientError, msgspec.MsgspecError) as error:
            logger.warning("%s could not be read again, it is tried again: %s", kind.resource.plural, error)
            await asyncio.sleep(READ.delay(1))
            kind.listed.set()


async def _drop_deleted(api: Api, kind: Watched, namespace: str | None) -> None:
    """List metadata only, and drop what is no longer there."""
    listed: set[str] = set()
    token = version = ""
    while True:
        raw = await api.list(kind.resource, namespace=namespace, limit=LIST_PAGE, continue_=token, metadata_only=True)
        page = _decode_identities(raw)
        listed |= {entry.metadata.uid for entry in page.items or ()}
        version, token = version or page.metadata.resource_version, page.metadata.continue_
        if not token:
            break
    _tell_gone(kind, kind.store.retain(listed, version))


def _tell_gone(kind: Watched, gone: int) -> None:
    if gone:
        logger.warning("%d deleted %s had not been reported by the watch", gone, kind.resource.plural)


_decode_page = reading(decoder(ObjectList[msgspec.Raw]))
_decode_identities = reading(decoder(ObjectList[Identified]))
_decode_object = reading(decoder(Identified))
_decode_body = decoder(dict[str, Any])
