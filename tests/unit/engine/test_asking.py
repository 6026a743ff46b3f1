"""Pods are asked over HTTP, and what answers is not trusted."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aifactory.engine.asking import MAX_BODY_BYTES, TIMEOUT_SECONDS, ask_for_ever, base_url, fetch, pod_session
from tests.support import faketime
from tests.support.faketime import FakeClock


@asynccontextmanager
async def server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/metrics", handler)
    async with TestServer(application) as running:
        yield str(running.make_url("/metrics"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: web.Response(body=b"x" * (MAX_BODY_BYTES + 1)), ValueError),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/secret"}), ValueError),
        (lambda: web.Response(status=500), aiohttp.ClientResponseError),
        (lambda: web.Response(status=204), ValueError),
    ],
    ids=["too large", "elsewhere", "failed", "empty"],
)
async def test_what_answers_is_not_trusted(answer: Callable[[], web.Response], error: type[Exception]) -> None:
    async def handler(_: web.Request) -> web.Response:
        return answer()

    async with server(handler) as url, aiohttp.ClientSession() as session:
        with pytest.raises(error):
            await fetch(session, url)


async def test_what_answers_is_not_blown_up() -> None:
    """A thousand bytes that decompress to a million cost what a thousand bytes cost."""
    packed = gzip.compress(bytes(1_000_000))

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with server(handler) as url, pod_session() as session:
        assert await fetch(session, url) == packed


async def test_a_page_is_read_to_its_end() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * MAX_BODY_BYTES)

    async with server(handler) as url, aiohttp.ClientSession() as session:
        assert await fetch(session, url) == b"x" * MAX_BODY_BYTES


async def test_nobody_is_waited_for_long() -> None:
    async with pod_session() as session:
        assert session.timeout.total == TIMEOUT_SECONDS == 3


def test_it_is_asked_at_an_interval_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[float]:
        began: list[float] = []
        clock = FakeClock()

        async def ask(_: aiohttp.ClientSession) -> None:
            began.append(clock.monotonic())
            if len(began) == 2:
                raise RuntimeError("a mistake of ours")
            await asyncio.sleep(25 if len(began) == 3 else 1)

        asking = asyncio.create_task(ask_for_ever("asking", ask, seconds=10, limit=1, monotonic=clock.monotonic))
        await asyncio.sleep(60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return began

    assert faketime.run(main) == [0, 10, 20, 45.5, 55.5], "also after a failure, and after a round that took too long"
    assert [record.getMessage() for record in caplog.records] == ["asking failed; it is tried again in 10 s"]


async def test_no_more_connections_are_open_than_may_be_and_none_is_kept() -> None:
    found: asyncio.Future[aiohttp.BaseConnector | None] = asyncio.get_running_loop().create_future()

    async def ask(session: aiohttp.ClientSession) -> None:
        found.set_result(session.connector)

    asking = asyncio.create_task(ask_for_ever("asking", ask, seconds=60, limit=7, monotonic=time.monotonic))
    connector = await found
    assert connector is not None
    assert (connector.limit, connector.force_close) == (7, True)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert connector.closed


@pytest.mark.parametrize(
    ("address", "url"), [("10.0.0.1", "http://10.0.0.1:8081"), ("fd00::1", "http://[fd00::1]:8081")]
)
def test_an_address_of_either_kind_is_asked(address: str, url: str) -> None:
    assert base_url(address, 8081) == url
