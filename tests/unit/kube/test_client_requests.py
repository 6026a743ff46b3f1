"""What each verb sends: method, path, query, headers and body, as an API server reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from aifactory.kube.auth import Connection, SessionProvider
from aifactory.kube.client import Client
from aifactory.kube.errors import ApiError, Gone, ServerError, TooManyRequests, Unreachable
from aifactory.kube.resources import BUDGETS, EVENTS, LEASES, NAMESPACES, PODGROUPS, PODS

POD = {"metadata": {"name": "a", "namespace": "ns"}, "spec": {"nodeName": "n1"}}
MERGE = "application/merge-patch+json"


@dataclass
class Sent:
    """One request as it arrived."""

    line: str
    """Method and path."""
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Recorder:
    """A server that notes what it is sent and answers with `status` and `answer`."""

    sent: list[Sent] = field(default_factory=list)
    status: int = 200
    answer: bytes = b'{"kind":"Pod"}'
    answer_headers: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """The path that is not found."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        line = f"{request.method} {request.path}"
        self.sent.append(Sent(line, dict(request.query), dict(request.headers), json.loads(raw) if raw else None))
        status = 404 if request.path == self.missing else self.status
        return web.Response(status=status, body=self.answer, headers=self.answer_headers)


@pytest.fixture
def server() -> Recorder:
    return Recorder()


@pytest.fixture
async def client(server: Recorder) -> AsyncIterator[Client]:
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    connection = Connection(f"http://127.0.0.1:{runner.addresses[0][1]}", "default")
    provider = SessionProvider(connection, user_agent="aifactory/test")
    found = Client(provider)
    yield found
    await found.close()
    await provider.close()
    await runner.cleanup()


Call = Callable[[Client], Awaitable[bytes]]

CALLS: list[tuple[Call, str, dict[str, str], str | None, Any]] = [
    (lambda c: c.get(PODS, "ns", "a"), "GET /api/v1/namespaces/ns/pods/a", {}, None, None),
    (lambda c: c.list(PODS), "GET /api/v1/pods", {}, None, None),
    (
        lambda c: c.list(PODS, namespace="ns", field_selector="spec.nodeName=n1"),
        "GET /api/v1/namespaces/ns/pods",
        {"fieldSelector": "spec.nodeName=n1"},
        None,
        None,
    ),
    (
        lambda c: c.create(PODS, POD),
        "POST /api/v1/namespaces/ns/pods",
        {"fieldValidation": "Strict"},
        "application/json",
        POD,
    ),
    (
        lambda c: c.create(PODS, POD, dry_run=True),
        "POST /api/v1/namespaces/ns/pods",
        {"fieldValidation": "Strict", "dryRun": "All"},
        "application/json",
        POD,
    ),
    (
        lambda c: c.create(NAMESPACES, {"metadata": {"name": "team"}}),
        "POST /api/v1/namespaces",
        {"fieldValidation": "Strict"},
        "application/json",
        {"metadata": {"name": "team"}},
    ),
    (
        lambda c: c.patch(PODS, "ns", "a", {"spec": {"x": None}}),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {},
        MERGE,
        {"spec": {"x": None}},
    ),
    (
        lambda c: c.patch(PODS, "ns", "a", {"metadata": {"labels": {"l": "1"}}}, resource_version="7"),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {},
        MERGE,
        {"metadata": {"labels": {"l": "1"}, "resourceVersion": "7"}},
    ),
    (
        lambda c: c.patch(PODS, "ns", "a", {"spec": {}}, resource_version="7"),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {},
        MERGE,
        {"spec": {}, "metadata": {"resourceVersion": "7"}},
    ),
    (
        lambda c: c.patch(PODS, "ns", "a", [{"op": "test"}], type="json"),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {},
        "application/json-patch+json",
        [{"op": "test"}],
    ),
    (
        lambda c: c.patch(PODS, "ns", "a", [{"op": "test"}], type="json", resource_version="7"),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {},
        "application/json-patch+json",
        [{"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}, {"op": "test"}],
    ),
    (
        lambda c: c.apply(PODS, POD, field_manager="me"),
        "PATCH /api/v1/namespaces/ns/pods/a",
        {"fieldManager": "me", "force": "true"},
        "application/apply-patch+yaml",
        POD,
    ),
    (
        lambda c: c.apply(NAMESPACES, {"metadata": {"name": "team"}}, field_manager="me", force=False),
        "PATCH /api/v1/namespaces/team",
        {"fieldManager": "me"},
        "application/apply-patch+yaml",
        {"metadata": {"name": "team"}},
    ),
    (
        lambda c: c.patch_status(PODS, "ns", "a", {"phase": "Running"}),
        "PATCH /api/v1/namespaces/ns/pods/a/status",
        {},
        MERGE,
        {"status": {"phase": "Running"}},
    ),
    (
        lambda c: c.patch_status(PODS, "ns", "a", {"phase": "Running"}, resource_version="7"),
        "PATCH /api/v1/namespaces/ns/pods/a/status",
        {},
        MERGE,
        {"status": {"phase": "Running"}, "metadata": {"resourceVersion": "7"}},
    ),
    (
        lambda c: c.delete(PODS, "ns", "a"),
        "DELETE /api/v1/namespaces/ns/pods/a",
        {},
        "application/json",
        {"propagationPolicy": "Background"},
    ),
    (
        lambda c: c.delete(PODS, "ns", "a", uid="u"),
        "DELETE /api/v1/namespaces/ns/pods/a",
        {},
        "application/json",
        {"propagationPolicy": "Background", "preconditions": {"uid": "u"}},
    ),
]


@pytest.mark.parametrize(("call", "line", "query", "content", "body"), CALLS)
async def test_a_request(
    client: Client, server: Recorder, call: Call, line: str, query: dict[str, str], content: str | None, body: Any
) -> None:
    assert await call(client) == b'{"kind":"Pod"}'
    (sent,) = server.sent
    assert (sent.line, sent.query, sent.body) == (line, query, body)
    assert sent.headers.get("Content-Type") == content
    assert sent.headers["Accept"] == "application/json"
    assert sent.headers["User-Agent"] == "aifactory/test"


async def test_how_an_object_ends_can_be_said(client: Client, server: Recorder) -> None:
    await client.delete(PODS, "ns", "a", grace_seconds=0, propagation="Foreground")
    assert server.sent[0].body == {"propagationPolicy": "Foreground", "gracePeriodSeconds": 0}


async def test_the_certificate_is_checked_for_the_name_that_the_connection_says() -> None:
    asked: list[Any] = []

    class Session:
        """Notes the name and answers nothing."""

        def request(self, method: str, url: Any, **options: Any) -> Any:
            asked.append(options["server_hostname"])
            raise OSError("no network")

        def get(self, url: Any, **options: Any) -> Any:
            return self.request("GET", url, **options)

    class Provider(SessionProvider):
        def session(self, *_: Any) -> Any:
            return Session()

    client = Client(Provider(Connection("https://10.0.0.1", "default", server_name="kube.test"), user_agent="test"))
    with pytest.raises(Unreachable, match="no network"):
        await client.get(PODS, "ns", "a")
    with pytest.raises(Unreachable, match="no network"):
        await anext(aiter(client.watch(PODS, resource_version="5")))
    assert asked == ["kube.test", "kube.test"]


async def test_a_body_that_is_made_conditional_is_not_changed_itself(client: Client) -> None:
    body: dict[str, Any] = {"metadata": {"labels": {}}}
    await client.patch(PODS, "ns", "a", body, resource_version="7")
    assert body == {"metadata": {"labels": {}}}


async def test_a_list_of_metadata_asks_for_nothing_else(client: Client, server: Recorder) -> None:
    await client.list(PODS, metadata_only=True)
    wanted = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert server.sent[0].headers["Accept"] == wanted


async def test_a_watch_says_from_where_and_how_long(client: Client, server: Recorder) -> None:
    server.answer = b'{"a":1}\n\n{"b":2}\n{"cut'
    stream = client.watch(PODS, resource_version="5", namespace="ns", label_selector="a=b", field_selector="c=d")
    lines = [line for batch in [batch async for batch in stream] for line in batch]
    assert lines == [b'{"a":1}', b'{"b":2}'], "an empty line keeps the connection alive, half a line is none"
    (sent,) = server.sent
    assert sent.line == "GET /api/v1/namespaces/ns/pods"
    assert sent.query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "5",
        "labelSelector": "a=b",
        "fieldSelector": "c=d",
        "timeoutSeconds": "300",
    }


async def test_a_watch_that_is_refused_says_why_in_the_servers_words(client: Client, server: Recorder) -> None:
    server.status, server.answer = 410, b'{"kind":"Status","reason":"Expired","message":"too old"}'
    with pytest.raises(Gone, match="too old"):
        await anext(aiter(client.watch(PODS, resource_version="5")))
    server.status, server.answer, server.answer_headers = 429, b"slow down", {"Retry-After": "9"}
    with pytest.raises(TooManyRequests, match="slow down") as caught:
        await anext(aiter(client.watch(PODS, resource_version="5")))
    assert caught.value.retry_after == 9.0
    assert len(server.sent) == 2, "who watches decides when to ask again"


async def test_an_answer_of_any_success_is_an_answer(client: Client, server: Recorder) -> None:
    server.status = 201
    assert await client.create(PODS, POD) == b'{"kind":"Pod"}'
    server.status = 202
    assert await client.delete(PODS, "ns", "a") == b'{"kind":"Pod"}'


async def test_an_answer_that_points_elsewhere_is_a_failure(client: Client, server: Recorder) -> None:
    server.status, server.answer = 300, b"choose"
    with pytest.raises(ApiError, match="300 Unknown: choose"):
        await client.get(PODS, "ns", "a")


async def test_what_is_served_is_asked_once_for_each_group(client: Client, server: Recorder) -> None:
    """Lists asked it before: one for each resource."""
    server.answer = b'{"kind":"APIResourceList","resources":[{"name":"pods"},{"name":"pods/log"},{"name":"nodes"}]}'
    assert await client.served({PODS, NAMESPACES}) == {PODS}
    assert [sent.line for sent in server.sent] == ["GET /api/v1"]
    await client.served({PODS, PODGROUPS})
    assert sorted(sent.line for sent in server.sent[1:]) == ["GET /api/v1", "GET /apis/scheduling.k8s.io/v1beta1"]


async def test_each_group_answers_for_its_own_resources_in_a_fixed_order(client: Client, server: Recorder) -> None:
    """The core group has events as well: what it says tells nothing of another group's."""
    server.missing = "/apis/events.k8s.io/v1"
    server.answer = b'{"kind":"APIResourceList","resources":[{"name":"pods"},{"name":"events"},{"name":"podgroups"}]}'
    assert await client.served({PODS, EVENTS, PODGROUPS, LEASES, BUDGETS}) == {PODS, PODGROUPS}
    assert [sent.line for sent in server.sent] == [
        "GET /api/v1",
        "GET /apis/coordination.k8s.io/v1",
        "GET /apis/events.k8s.io/v1",
        "GET /apis/policy/v1",
        "GET /apis/scheduling.k8s.io/v1beta1",
    ]


async def test_a_group_that_is_not_there_is_not_served_and_other_trouble_is_told(
    client: Client, server: Recorder
) -> None:
    server.status, server.answer = 404, b"404 page not found"
    assert await client.served({PODGROUPS}) == set()
    server.status = 503
    with pytest.raises(ServerError):
        await client.served({PODGROUPS})
