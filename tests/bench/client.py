"""A bare client: one aiohttp session, JSON bytes in, JSON bytes out. No cache, no retry, nothing decoded.

What the operator is measured against must not be slowed down by anything of its own.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec
import yaml
from yarl import URL

IN_FLIGHT = 32
"""Requests at a time: more does not make an API server on a few cores faster."""
JSON = {"Content-Type": "application/json"}
MERGE = {"Content-Type": "application/merge-patch+json"}

T = TypeVar("T")


class RequestFailed(Exception):
    """The API server refused; the message has its words."""

    def __init__(self, status: int, what: str, body: bytes) -> None:
        super().__init__(f"{what}: {status} {body[:500].decode(errors='replace')}")
        self.status = status


class Client:
    """One user of an API server, given by a kubeconfig with certificates in it."""

    def __init__(self, kubeconfig: Path, agent: str) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._server = str(config["clusters"][0]["cluster"]["server"])
        connector = aiohttp.TCPConnector(limit=0, ssl=_tls(config))
        self._session = aiohttp.ClientSession(
            connector=connector, headers={"User-Agent": agent, "Accept": "application/json"}
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> bytes:
        """The body of the answer. Raises RequestFailed for a status of 300 or more."""
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        async with self._session.request(method, self._url(path), data=data, headers=headers or JSON) as response:
            content = await response.read()
            if response.status >= 300:
                raise RequestFailed(response.status, f"{method} {path}", content)
            return content

    async def get(self, path: str) -> Any:
        return msgspec.json.decode(await self.request("GET", path))

    async def create(self, path: str, body: object) -> Any:
        return msgspec.json.decode(await self.request("POST", path, body))

    async def merge(self, path: str, body: object) -> bytes:
        return await self.request("PATCH", path, body, MERGE)

    async def watch(self, path: str) -> AsyncIterator[list[bytes]]:
        """Complete lines of a watch as they arrive."""
        rest = b""
        async with self._session.get(self._url(path), timeout=aiohttp.ClientTimeout(total=None)) as response:
            if response.status != 200:
                raise RequestFailed(response.status, f"watch {path}", await response.read())
            while chunk := await response.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines

    def _url(self, path: str) -> URL:
        return URL(self._server + path, encoded=True)


def _tls(config: Any) -> ssl.SSLContext:
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # the ssl module reads certificates from files only
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


async def at_pace(items: Iterable[T], work: Callable[[T], Awaitable[object]], per_second: float) -> None:
    """Do `work` for one item after the other, and begin no more than so many a second."""
    started = time.monotonic()
    for number, item in enumerate(items, start=1):
        await work(item)
        await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))


async def each(items: Iterable[T], work: Callable[[T], Awaitable[object]], in_flight: int = IN_FLIGHT) -> None:
    """Do `work` for every item, so many at a time. The first failure ends it."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
