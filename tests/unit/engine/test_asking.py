"""Pods are asked over HTTP, and what answers is not trusted."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aifactory.engine.asking import MAX_BODY_BYTES, TIMEOUT_SECONDS, base_url, fetch, pod_session


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


@pytest.mark.parametrize(
    ("address", "url"), [("10.0.0.1", "http://10.0.0.1:8081"), ("fd00::1", "http://[fd00::1]:8081")]
)
def test_an_address_of_either_kind_is_asked(address: str, url: str) -> None:
    assert base_url(address, 8081) == url
