"""kopf as the shell, with the real kopf: what it does not tell is found out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aifactory.api.modelversion import ModelVersion
from aifactory.app import shell, watching
from aifactory.engine import custom
from aifactory.engine.custom import Stored
from aifactory.kube.auth import Connection, SessionProvider
from aifactory.kube.backoff import Backoff
from aifactory.kube.client import Client
from aifactory.kube.resources import Resource
from aifactory.kube.store import Store
from tests.support.kinds import MODELVERSIONS
from tests.unit.memory_api import MemoryApi

DEADLINE_SECONDS = 30.0
SPEC = {"model": "gpt", "version": 1, "source": {"uri": "s3://models/gpt/1"}, "format": "huggingface"}
KIND = {"apiVersion": MODELVERSIONS.api_version, "kind": MODELVERSIONS.kind}


def _discovery(*resources: Resource) -> dict[str, Any]:
    """What kopf asks for before it watches anything, by path."""
    groups = [
        {"name": r.group, "versions": [{"version": r.version}], "preferredVersion": {"version": r.version}}
        for r in resources
        if r.group
    ]
    found: dict[str, Any] = {"/api": {"versions": ["v1"]}, "/apis": {"groups": groups}}
    for r in resources:
        served = {"name": r.plural, "singularName": "", "kind": r.kind, "namespaced": r.namespaced}
        path = f"/apis/{r.api_version}" if r.group else f"/api/{r.version}"
        found[path] = {"resources": [{**served, "verbs": ["list", "watch"]}]}
    return found


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
DISCOVERY = _discovery(NAMESPACES, CRDS, MODELVERSIONS)


class Versions:
    """An API server's ModelVersions: lists, and watches that say nothing until they expire."""

    def __init__(self) -> None:
        self.application = web.Application()
        for path, answer in DISCOVERY.items():
            self.application.router.add_get(path, _answer(answer))
        self.application.router.add_get(f"/apis/{MODELVERSIONS.api_version}/{MODELVERSIONS.plural}", self._versions)
        self.objects: list[dict[str, Any]] = []
        self.version = 1
        self.expiries: asyncio.Queue[None] = asyncio.Queue()
        """Each ends one watch with 410."""
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        """Each is told by one watch, which then goes on."""
        self.refusals = 0
        """So many of the next lists are answered with 401."""
        self.logins = 0

    def add(self, name: str) -> None:
        self.version += 1
        metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(self.version)}
        self.objects.append({**KIND, "metadata": metadata, "spec": SPEC})

    def delete_all(self) -> None:
        self.version += 1
        self.objects.clear()

    async def _versions(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            if self.refusals:
                self.refusals -= 1
                return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
            return web.json_response(
                {
                    "metadata": {"resourceVersion": str(self.version), "continue": ""},
                    "items": [] if request.query.get("fieldSelector") == watching.NOTHING else self.objects,
                }
            )
        response = web.StreamResponse()
        await response.prepare(request)
        while not self.lines.empty():
            await response.write(self.lines.get_nowait() + b"\n")
        await self.expiries.get()
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
        return response


def _answer(body: Any) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body)

    return handler


@pytest.fixture
async def versions() -> Versions:
    return Versions()


@pytest.fixture
async def store(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store[Stored[ModelVersion]]]:
    """What kopf and the audits make of these versions."""
    monkeypatch.setattr(shell, "READ", Backoff(base=0.0, limit=0.0))
    kind = watching.Watched(MODELVERSIONS, custom.parser(ModelVersion), Store())
    async with TestServer(versions.application) as server:
        connection = Connection(server=str(server.make_url("")).rstrip("/"), namespace="team")
        provider = SessionProvider(connection, user_agent="test")
        client = Client(provider)

        def login() -> kopf.AiohttpSession:
            versions.logins += 1
            session = provider.session(
                watching.list_nothing([kind]), watching.refused_is_away, watching.readable([kind])
            )
            return kopf.AiohttpSession(server=connection.server, aiohttp_session=session)

        stop, started = asyncio.Event(), asyncio.Event()
        tasks = await kopf.spawn_tasks(
            registry=shell.registry([kind], login),
            settings=shell.settings(),
            standalone=True,
            clusterwide=True,
            stop_flag=stop,
            ready_flag=started,
        )
        audit = asyncio.create_task(shell.audit(client, [kind], None))
        try:
            yield kind.store
        finally:
            audit.cancel()
            stop.set()
            await kopf.run_tasks(tasks, ignored=asyncio.all_tasks())
            await asyncio.gather(audit, return_exceptions=True)
            await client.close()
            await provider.close()


async def holds(store: Store[Stored[ModelVersion]], count: int) -> None:
    """Wait until the store has that many objects."""
    changed = asyncio.Event()
    store.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(store) != count:
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE_SECONDS:.0f} s: {count} objects; there are {store.keys()}")


@pytest.mark.parametrize("left", [["gpt-v2"], []], ids=["others are left", "it was the last"])
async def test_a_deletion_during_a_broken_watch_is_noticed_after_the_next_list(
    versions: Versions, store: Store[Stored[ModelVersion]], left: list[str]
) -> None:
    """Of an empty list kopf tells no handler: the last object of a kind stayed in the store for up to five minutes."""
    for name in ("gpt-v1", *left):
        versions.add(name)
    versions.expiries.put_nowait(None)  # kopf may have listed before they were there
    await holds(store, 1 + len(left))
    versions.delete_all()
    for name in left:
        versions.add(name)
    versions.expiries.put_nowait(None)
    await holds(store, len(left))


async def test_a_token_that_is_refused_is_waited_for(versions: Versions, store: Store[Stored[ModelVersion]]) -> None:
    """kopf's own answer to a 401, another login, closed its session under requests that were on their way."""
    versions.add("gpt-v1")
    versions.refusals = 2
    versions.expiries.put_nowait(None)
    await holds(store, 1)
    assert versions.refusals == 0
    assert versions.logins == 1


def _deep(name: str, version: int, levels: int) -> bytes:
    metadata = {"name": name, "namespace": "team", "uid": name, "resourceVersion": str(version)}
    raw = json.dumps({**KIND, "metadata": metadata, "spec": {**SPEC, "deep": 1}}).encode()
    return raw.replace(b'"deep": 1', b'"deep": %b' % (b'{"a":' * levels + b"1" + b"}" * levels))


async def test_an_object_that_nests_too_deep_does_not_end_kopf(
    versions: Versions, store: Store[Stored[ModelVersion]]
) -> None:
    """kopf's parser raises RecursionError at 990 levels; then kopf ended, and the process, at each start again."""
    for number, levels in enumerate((990, 10_000), start=1):
        line = b'{"type":"ADDED","object":%b}' % _deep(f"deep{number}", 100 + number, levels)
        versions.lines.put_nowait(line)
    versions.expiries.put_nowait(None)
    await holds(store, 2)
    assert all(stored.model is None and "nests deeper" in stored.error for stored in store.all())
    versions.version = 200
    versions.add("gpt-v1")
    versions.expiries.put_nowait(None)
    await holds(store, 1)  # what the list does not hold is gone, so kopf goes on


@pytest.mark.parametrize("levels", [350, 990, 10_000])
async def test_a_list_with_an_object_that_nests_too_deep_is_read(levels: int) -> None:
    class Deep(MemoryApi):
        async def list(self, *args: Any, **options: Any) -> bytes:
            items = b",".join((_deep("deep", 7, levels), _deep("gpt-v1", 8, 1)))
            return b'{"metadata":{"resourceVersion":"9"},"items":[%b]}' % items

    kind = watching.Watched(MODELVERSIONS, custom.parser(ModelVersion), Store())
    for _ in range(2):
        await shell.refresh(Deep(), kind, None)
        assert [(found.metadata.name, found.model is None) for found in kind.store.all()] == [
            ("deep", True),
            ("gpt-v1", False),
        ]


def test_the_echo_of_a_write_whose_answer_is_known_is_not_parsed() -> None:
    parse, parsed = custom.parser(ModelVersion), []

    def counted(body: Any) -> Stored[ModelVersion]:
        parsed.append(body["metadata"]["resourceVersion"])
        return parse(body)

    store: Store[Stored[ModelVersion]] = Store()
    kind = watching.Watched(MODELVERSIONS, counted, store)

    def body(version: int, phase: str) -> dict[str, Any]:
        metadata = {"name": "gpt-v1", "namespace": "team", "uid": "u", "resourceVersion": str(version)}
        return {**KIND, "metadata": metadata, "spec": SPEC, "status": {"phase": phase}}

    shell.handle(kind, "ADDED", body(1, "New"))
    store.put(parse(body(2, "Answered")), origin="modelversion")
    shell.handle(kind, "MODIFIED", body(2, "Answered"))
    assert parsed == ["1"]
    shell.handle(kind, "MODIFIED", body(3, "Changed"))
    assert parsed == ["1", "3"]
    found = store.get("team", "gpt-v1")
    assert found is not None
    assert found.status == {"phase": "Changed"}


async def test_stores_are_filled_by_one_list_of_our_own() -> None:
    """A list after each pause of 50 ms took 504 pages for 4,000 objects."""
    api = MemoryApi()
    for number in range(shell.LIST_PAGE + 1):
        api.put(MODELVERSIONS, "team", f"gpt-v{number:04d}", spec=SPEC)
    changes: list[bool] = []
    kind = watching.Watched(MODELVERSIONS, custom.parser(ModelVersion), Store())
    kind.store.subscribe(lambda change: changes.append(change.background))
    filling = asyncio.create_task(shell.fill(api, [kind], None))
    await asyncio.sleep(0.05)
    assert not api.calls, "what happens before kopf watches would be told by nobody"
    kind.listed.set()
    await filling
    assert len(kind.store) == len(changes) == shell.LIST_PAGE + 1
    assert all(changes), "what was there before need not be looked at before what happens now"
    assert [call[0] for call in api.calls] == ["list", "list"]


async def test_a_list_parses_only_what_is_new_and_drops_what_is_gone() -> None:
    api, parse, parsed = MemoryApi(), custom.parser(ModelVersion), []

    def counted(body: Any) -> Stored[ModelVersion]:
        parsed.append(body["metadata"]["name"])
        return parse(body)

    kind = watching.Watched(MODELVERSIONS, counted, Store())
    for name in ("kept", "changed", "deleted"):
        api.put(MODELVERSIONS, "team", name, spec=SPEC)
    await shell.refresh(api, kind, None)
    parsed.clear()
    api.put(MODELVERSIONS, "team", "changed", spec={**SPEC, "version": 2})
    api.drop(MODELVERSIONS, "team", "deleted")
    await shell.refresh(api, kind, None)
    assert parsed == ["changed"]
    assert sorted(found.metadata.name for found in kind.store.all()) == ["changed", "kept"]
