"""What the client does with a server that is busy, broken or gone: when it asks again, and when it must not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from aifactory.kube import retry
from aifactory.kube.api import Api
from aifactory.kube.auth import AuthError, Connection, SessionProvider
from aifactory.kube.backoff import Backoff
from aifactory.kube.client import Client
from aifactory.kube.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    ServerError,
    ServerTimeout,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    error_from_response,
)
from aifactory.kube.resources import PODS
from aifactory.kube.retry import MAX_ATTEMPTS, Retrying

POD = {"metadata": {"name": "a", "namespace": "ns"}}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A server that gives prepared answers, the last one for ever."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[web.BaseRequest] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)  # type: ignore[arg-type]


def status(code: int, reason: str = "", message: str = "words", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        body = {"kind": "Status", "code": code, "reason": reason, "message": message}
        return web.json_response(body, status=code, headers={key.replace("_", "-"): v for key, v in headers.items()})

    return answer


async def fine(_: web.Request) -> web.StreamResponse:
    return web.json_response({"kind": "Pod"})


async def hang_up(request: web.Request) -> web.StreamResponse:
    """The connection ends without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    runner = web.ServerRunner(web.Server(found.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.fixture
async def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(retry, "REQUEST", Backoff(base=0.001, limit=30.0))
    provider = SessionProvider(Connection(f"http://127.0.0.1:{server.port}", "default"), user_agent="test")
    found = Client(provider)
    yield Retrying(found)
    await found.close()
    await provider.close()


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_a_passing_failure_is_asked_again(client: Api, server: Server, code: int) -> None:
    server.answers = [status(code), status(code), fine]
    assert json.loads(await client.get(PODS, "ns", "a")) == {"kind": "Pod"}
    assert len(server.requests) == 3


async def test_asking_again_has_an_end(client: Api, server: Server) -> None:
    server.answers = [status(503)]
    with pytest.raises(ServerError, match="words"):
        await client.patch(PODS, "ns", "a", {})
    assert len(server.requests) == MAX_ATTEMPTS


async def test_the_server_says_how_long_to_wait(client: Api, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    server.answers = [status(429, Retry_After="7"), status(429, Retry_After="100000"), fine]
    await client.get(PODS, "ns", "a")
    assert 7.0 <= waits[0] <= 7.0 * 1.25
    assert 30.0 <= waits[1] <= 30.0 * 1.25


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (403, "Forbidden", Forbidden),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
    ],
)
async def test_a_refusal_is_final(client: Api, server: Server, code: int, reason: str, error: type[KubeError]) -> None:
    server.answers = [status(code, reason)]
    with pytest.raises(error, match="words"):
        await client.get(PODS, "ns", "a")
    assert len(server.requests) == 1


async def test_a_create_is_repeated_only_if_it_can_not_have_been_done(client: Api, server: Server) -> None:
    server.answers = [status(429), fine]
    await client.create(PODS, POD)
    assert len(server.requests) == 2

    server.requests.clear()
    server.answers = [status(500), fine]
    with pytest.raises(ServerError):
        await client.create(PODS, POD)
    assert len(server.requests) == 1

    server.requests.clear()
    server.answers = [hang_up, fine]
    with pytest.raises(Unreachable):
        await client.create(PODS, POD)
    assert len(server.requests) == 1


async def test_a_delete_whose_answer_was_lost_is_sent_again(client: Api, server: Server) -> None:
    server.answers = [hang_up, fine]
    await client.delete(PODS, "ns", "a", uid="u")
    assert len(server.requests) >= 2


async def test_credentials_that_can_not_be_read_are_a_failure_that_passes(server: Server) -> None:
    server.answers = [fine]
    broken = True

    async def authorization() -> str:
        if broken:
            raise RuntimeError("the plugin crashed")
        return "Bearer token"

    connection = Connection(f"http://127.0.0.1:{server.port}", "default", authorization=authorization)
    provider = SessionProvider(connection, user_agent="test")
    mine = Client(provider)
    try:
        with pytest.raises(Unreachable, match="the plugin crashed") as caught:
            await mine.get(PODS, "ns", "a")
        assert isinstance(caught.value.__cause__, AuthError)
        broken = False
        await mine.get(PODS, "ns", "a")
        assert server.requests[-1].headers["Authorization"] == "Bearer token"
    finally:
        await mine.close()
        await provider.close()


async def test_a_watch_puts_lines_together_wherever_the_network_cuts_them(client: Api, server: Server) -> None:
    lines = [b'{"type":"ADDED","object":{"n":%d}}' % number for number in range(50)]
    stream = b"\n".join(lines) + b"\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(stream), 7):
            await response.write(stream[start : start + 7])
        return response

    server.answers = [answer]
    seen = [line async for batch in client.watch(PODS, resource_version="1") for line in batch]
    assert seen == lines
    assert server.requests[0].query["allowWatchBookmarks"] == "true"


async def test_a_watch_that_breaks_off_is_unreachable(client: Api, server: Server) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"ADDED"}\n{"ty')
        assert request.transport is not None
        request.transport.close()
        return response

    server.answers = [answer]
    seen = []
    with pytest.raises(Unreachable):  # noqa: PT012 - what comes before it must arrive
        async for batch in client.watch(PODS, resource_version="1"):
            seen += batch
    assert seen == [b'{"type":"ADDED"}']


async def test_selectors_are_sent_encoded(client: Api, server: Server) -> None:
    server.answers = [fine]
    await client.list(PODS, namespace="ns", label_selector="a=b,c in (d, e)", limit=5, continue_="x/y=")
    assert dict(server.requests[0].query) == {"labelSelector": "a=b,c in (d, e)", "limit": "5", "continue": "x/y="}
    assert server.requests[0].path == "/api/v1/namespaces/ns/pods"


@pytest.mark.parametrize(
    ("code", "body", "error"),
    [
        (503, b"<html>upstream connect error</html>", ServerError),
        (504, b'{"kind":"Status","reason":"Timeout","message":"m"}', ServerTimeout),
        (429, b'{"kind":"Status","reason":"TooManyRequests","details":{"retryAfterSeconds":3}}', TooManyRequests),
        (401, b"", Unauthorized),
        (409, b'{"kind":"Status","reason":"Conflict","details":null}', Conflict),
    ],
)
def test_errors_by_status_and_reason(code: int, body: bytes, error: type[KubeError]) -> None:
    found = error_from_response(code, body)
    assert type(found) is error
    if code == 429:
        assert found.retry_after == 3.0
    if code == 503:
        assert "upstream" in found.message
