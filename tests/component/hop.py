"""What a gateway costs: the same load through it and straight to a pod, in turns, so that both meet the same machine.

Told are medians over the rounds: time of an answer, answers and pieces of streams a second.

    .venv/bin/python -m tests.component.hop                                             # a pod that only waits
    .venv/bin/python -m tests.component.hop stickiness                                  # one proxy against another
    AIFACTORY_HOP=1 .venv/bin/pytest tests/cluster/test_gateway.py -q -s -k costs       # Triton, on the local cluster
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp

from aifactory.api import names
from aifactory.serving import envoy
from tests.component.envoys import Site, routes

ROUNDS = 7
SECONDS = 2.0


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> tuple[int, int]:
    """Send one request; returns bytes of the answer's body, and its pieces if it is streamed."""
    writer.write(text)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    lower = head.lower()
    if b"content-length:" in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        return length, 0
    pieces = size = 0
    while length := int(await reader.readuntil(b"\r\n"), 16):
        pieces += (await reader.readexactly(length + 2)).count(b"data: ")
        size += length
    await reader.readexactly(2)
    return size, pieces


async def load(host: str, port: int, text: bytes, clients: int) -> tuple[float, float, float]:
    """Median seconds of an answer, answers a second, pieces a second."""
    took: list[float] = []
    pieces = 0
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        nonlocal pieces
        reader, writer = await asyncio.open_connection(host, port)
        while (started := time.perf_counter()) < end:
            if reader.at_eof():
                reader, writer = await asyncio.open_connection(host, port)
            try:
                _, more = await request(reader, writer, text)
            except (asyncio.IncompleteReadError, ConnectionError):  # OpenAI's port ends connections that are old
                reader, writer = await asyncio.open_connection(host, port)
                continue
            pieces += more
            took.append(time.perf_counter() - started)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    return statistics.median(took), len(took) / seconds, pieces / seconds


def post(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def tell(hosts: tuple[str, str], cases: Iterable[tuple[str, int, bytes]]) -> None:
    """Print what one load is straight to a pod, and through its gateway.

    Args:
        hosts: the pod, and the gateway.
        cases: what is asked, the port, and the request.
    """
    for what, port, text in cases:
        for clients in (1, 8):
            rounds = [[asyncio.run(load(host, port, text, clients)) for host in hosts] for _ in range(ROUNDS)]
            sides = (
                [statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*rounds, strict=True)
            )
            direct, through = sides
            line = f"{what}, clients: {clients}: p50 {direct[0] * 1e3:.2f} -> {through[0] * 1e3:.2f} ms"
            line += f", {direct[1]:.0f} -> {through[1]:.0f} answers/s ({through[1] / direct[1]:.2f})"
            if direct[2]:
                line += f", {direct[2]:.0f} -> {through[2]:.0f} pieces/s ({through[2] / direct[2]:.2f})"
            print(line, flush=True)


def main() -> None:
    """A pod that only waits, on loopback addresses."""

    async def begin(site: Site, leads: envoy.Routes) -> None:
        await site.begin()
        site.start_pod("a", 1)
        site.wait_for_pods()
        site.name("chat-pods", "a")
        digest = site.write(leads)
        site.start_envoy()
        await site.wait_for_digest(digest)
        async with aiohttp.ClientSession() as client:
            while True:
                async with client.get(site.url(names.GATEWAY_STATUS_PORT, envoy.READY_PATH)) as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.1)

    if sys.argv[1:] == ["stickiness"]:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            sites = [(Site(Path(first)), routes()), (Site(Path(second)), replace(routes(), prompt_bytes=1024))]
            try:
                for site, leads in sites:
                    asyncio.run(begin(site, leads))
                cases = [
                    (
                        f"a prompt of {size} kB",
                        names.OPENAI_PORT,
                        post("/v1/completions", {"prompt": "x" * size * 1000}),
                    )
                    for size in (2, 200)
                ]
                tell((sites[0][0].address, sites[1][0].address), cases)
            finally:
                for site, _ in sites:
                    site.end()
        return
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        try:
            asyncio.run(begin(site, routes()))
            whole = ("an answer after 5 ms", names.TRITON_HTTP_PORT, post("/infer", {}))
            stream = "a stream of 200 pieces, 1 ms apart"
            pieces = (stream, names.OPENAI_PORT, post("/stream?tokens=200&seconds=0.001", {}))
            tell((site.pod_address("a"), site.address), (whole, pieces))
        finally:
            site.end()


if __name__ == "__main__":
    main()
