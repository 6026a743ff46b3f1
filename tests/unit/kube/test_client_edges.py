"""The client at its edges: how long it waits, what it counts as sent, and servers that do not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aifactory.kube import client as client_module
from aifactory.kube import retry
from aifactory.kube.api import Api
from aifactory.kube.auth import Connection, SessionProvider
from aifactory.kube.backoff import REQUEST
from aifactory.kube.client import Client
from aifactory.kube.errors import NotFound, ServerError, Unauthorized, Unreachable
from aifactory.kube.resources import PODS
from aifactory.kube.retry import MAX_ATTEMPTS, Retrying

POD = {"metadata": {"name": "a", "namespace": "ns"}}


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class FullJitter(random.Random):
    def random(self) -> float:
        return 1.0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between attempts, which do not pass."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    return found


Serve = Callable[[Callable[[int], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server whose answers are made from the number of the request; returns its URL."""
    runners: list[web.ServerRunner] = []

    async def start(answer: Callable[[int], Awaitable[web.StreamResponse]]) -> str:
        count = 0

        async def handle(_: web.BaseRequest) -> web.StreamResponse:
            nonlocal count
            count += 1
            return await answer(count)

        runner = web.ServerRunner(web.Server(handle))
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@dataclass
class Silent:
    """A server that takes what it is sent and never answers."""

    url: str
    connections: int = 0


@pytest.fixture
async def silent() -> AsyncIterator[Silent]:
    found = Silent("")
    writers = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writers.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()
    for writer in writers:
        writer.close()


@pytest.fixture
async def clients() -> AsyncIterator[Callable[..., Api]]:
    made: list[tuple[Client, SessionProvider]] = []

    def make(url: str, *, rng: random.Random | None = None, **options: Any) -> Api:
        provider = SessionProvider(Connection(url, "default"), user_agent="test")
        made.append((Client(provider, **options), provider))
        return Retrying(made[-1][0], rng=rng)

    yield make
    for client, provider in made:
        await client.close()
        await provider.close()


Clients = Callable[..., Api]


def always(status: int, **headers: str) -> Callable[[int], Awaitable[web.StreamResponse]]:
    async def answer(_: int) -> web.StreamResponse:
        return web.Response(status=status, headers={key.replace("_", "-"): value for key, value in headers.items()})

    return answer


@pytest.mark.parametrize(("rng", "factor"), [(NoJitter(), 1.0), (FullJitter(), 1.25)])
async def test_waits_double_and_are_spread_by_up_to_a_quarter(
    serve: Serve, clients: Clients, waits: list[float], rng: random.Random, factor: float
) -> None:
    client = clients(await serve(always(503)), rng=rng)
    with pytest.raises(ServerError):
        await client.get(PODS, "ns", "a")
    assert waits == pytest.approx([REQUEST.base * factor * 2**n for n in range(MAX_ATTEMPTS - 1)])


async def test_a_server_that_asks_for_less_than_the_usual_wait_does_not_get_it(
    serve: Serve, clients: Clients, waits: list[float]
) -> None:
    client = clients(await serve(always(429, Retry_After="0")), rng=NoJitter())
    with pytest.raises(Exception, match="429"):
        await client.get(PODS, "ns", "a")
    assert waits == pytest.approx([REQUEST.base * 2**n for n in range(MAX_ATTEMPTS - 1)])


async def test_a_create_that_found_no_server_is_sent_again(clients: Clients, waits: list[float]) -> None:
    client = clients("http://127.0.0.1:9")
    with pytest.raises(Unreachable) as caught:
        await client.create(PODS, POD)
    assert not caught.value.sent
    assert len(waits) == MAX_ATTEMPTS - 1
    assert str(caught.value).startswith("POST /api/v1/namespaces/ns/pods: ")
    assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorError)


async def test_a_create_that_was_refused_for_its_credentials_is_not_sent_again(
    serve: Serve, clients: Clients, waits: list[float]
) -> None:
    client = clients(await serve(always(401)))
    with pytest.raises(Unauthorized):
        await client.create(PODS, POD)
    assert waits == []
    with pytest.raises(Unauthorized):
        await client.get(PODS, "ns", "a")
    assert len(waits) == MAX_ATTEMPTS - 1


async def test_an_answer_that_takes_too_long_may_have_been_carried_out(silent: Silent, clients: Clients) -> None:
    client = clients(silent.url, timeout=0.1)
    with pytest.raises(Unreachable) as caught:
        await client.create(PODS, POD)
    assert caught.value.sent
    assert silent.connections == 1
    with pytest.raises(Unreachable):
        await client.delete(PODS, "ns", "a")
    assert silent.connections == 1 + MAX_ATTEMPTS, "a second delete changes nothing"


async def test_a_watch_of_a_dead_server_ends_a_little_after_it_should_have(
    silent: Silent, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_GRACE_SECONDS", 0.1)
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable, match=r"^watch pods: .+"):
            await anext(aiter(clients(silent.url).watch(PODS, resource_version="1", timeout_seconds=0)))


async def test_a_watch_of_what_is_not_there_is_refused(serve: Serve, clients: Clients) -> None:
    client = clients(await serve(always(404)))
    with pytest.raises(NotFound):
        await anext(aiter(client.watch(PODS, resource_version="1")))


async def test_a_client_that_is_closed_sends_nothing(serve: Serve) -> None:
    provider = SessionProvider(Connection(await serve(always(200)), "default"), user_agent="test")
    client = Client(provider)
    assert await client.get(PODS, "ns", "a") == b""
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get(PODS, "ns", "a")
    await provider.close()
