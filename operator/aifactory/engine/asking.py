"""How pods are asked over HTTP. What answers is not trusted: bodies are bounded, redirects are not followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp import hdrs

logger = logging.getLogger(__name__)
T = TypeVar("T")

TIMEOUT_SECONDS = 3.0
MAX_BODY_BYTES = 256 * 1024


def base_url(address: str, port: int) -> str:
    """Of a pod's port, by its IP address."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def pod_session(connector: aiohttp.BaseConnector | None = None) -> aiohttp.ClientSession:
    """How pods are asked. What they send is not decompressed: a few bytes could become millions before they count."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        auto_decompress=False,
        headers={hdrs.ACCEPT_ENCODING: "identity"},
    )


async def ask_for_ever(
    what: str,
    ask: Callable[[aiohttp.ClientSession], Awaitable[None]],
    *,
    seconds: float,
    limit: int,
    monotonic: Callable[[], float],
) -> None:
    """One round every so many seconds, over `limit` connections; ends when cancelled. `what` it does, for the log."""
    # A connection that is kept for each of ten thousand pods would be a file descriptor each.
    connector = aiohttp.TCPConnector(limit=limit, force_close=True)
    async with pod_session(connector) as session:
        while True:
            started = monotonic()
            try:
                await ask(session)
            except Exception:
                logger.exception("%s failed; it is tried again in %.0f s", what, seconds)
            await asyncio.sleep(max(0.5, started + seconds - monotonic()))


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """The body of a page.

    Raises:
        aiohttp.ClientError: there is none.
        TimeoutError: it takes too long.
        ValueError: it is too large, or somewhere else.
    """
    async with session.get(url, allow_redirects=False) as response:
        response.raise_for_status()
        if response.status != 200:
            raise ValueError(f"{url} answers {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ValueError(f"{url} answers with more than {MAX_BODY_BYTES} bytes")
        return bytes(body)


def reader(type_: type[T]) -> Callable[[bytes], T]:
    """Reads JSON of a type, and raises ValueError for everything else: also for what nests too deeply to be read."""
    decode = msgspec.json.Decoder(type_).decode

    def read(body: bytes) -> T:
        try:
            return decode(body)
        except RecursionError as error:
            raise ValueError("it nests too deeply") from error

    return read
