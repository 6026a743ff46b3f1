"""A lean HTTP client for measurements: it takes as little of the machine as it can, which the servers share with it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class HttpFailure(Exception):
    """The answer is none that could be measured."""


class Connection:
    """One client's connection, kept as long as the server keeps it; one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The answer's body in the pieces in which it comes. Raises HttpFailure unless it is 200."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                yield (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            yield await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        if status.split()[1] != "200":
            raise HttpFailure(status)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Round:
    """What many clients got in one round."""

    tokens: int
    seconds: float
    cpu: float
    """Seconds of the servers' processes."""
    first: tuple[float, ...]
    """For each request: seconds to its first text."""

    @property
    def rate(self) -> float:
        """Tokens a second by the clock."""
        return self.tokens / self.seconds


async def stream_chat(connection: Connection, body: dict[str, Any]) -> tuple[int, float]:
    """One streamed chat: its tokens, as the server counts them, and seconds to the first text."""
    started, first, rest = time.monotonic(), 0.0, b""
    async for piece in connection.post("/v1/chat/completions", {**body, "stream": True}):
        rest += piece
        while not first and b"\n\n" in rest:
            event, rest = rest.split(b"\n\n", 1)
            if any(choice["delta"].get("content") for choice in json.loads(event[6:])["choices"]):
                first = time.monotonic() - started
    usage = [event for event in rest.split(b"\n\n") if b'"completion_tokens"' in event]
    if not usage or not first:
        raise HttpFailure(f"no whole answer: {rest[-300:]!r}")
    return int(json.loads(usage[-1][6:])["usage"]["completion_tokens"]), first


def cpu_seconds(processes: Iterable[int]) -> float:
    """What processes have used so far, those they have started included once they have ended."""
    used = 0
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")
