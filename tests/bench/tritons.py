"""What stands in for Triton and the agent in every serving pod: one small server for all of them.

kwok gives pods with the label bench/probed the address 127.0.0.1, so every pod's page comes from here. It has the size
of a real one, and counters that grow at a rate which changes all the time: each pool has news whenever it is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aifactory.api import names

LABEL = "bench/probed"
CHANGE_SECONDS = 5.0
"""How often the rate changes."""
OTHER_METRICS = 100
"""Lines of a page that nobody looks for."""
READY = b'{"revision":"1","ready":true,"models":[]}'


class Tritons:
    """Answers, and counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self._rng = random.Random(0)
        self._requests = 0.0
        self._rate = 10.0
        self._at = self._changed = time.monotonic()
        labels = '{model="chat",version="1",gpu_uuid="GPU-00000000-0000-4000-8000-000000000000"}'
        lines = (
            f"# HELP nv_other_{number} Something else\n# TYPE nv_other_{number} counter\nnv_other_{number}{labels} 1\n"
            for number in range(OTHER_METRICS)
        )
        self._rest = "".join(lines).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            body = READY if b"/v1/status" in head else self._page()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _page(self) -> bytes:
        now = time.monotonic()
        if now > self._changed + CHANGE_SECONDS:
            self._rate, self._changed = 10.0 ** self._rng.uniform(0, 3), now
        self._requests += self._rate * (now - self._at)
        self._at = now
        own = b'nv_inference_request_success{model="chat",version="1"} %d\n' % self._requests
        own += b'aifactory_probe_requests_total{model="chat",version="1"} 1\n'
        own += b'aifactory_generated_tokens_total{model="chat",version="1"} %d\n' % (50 * self._requests)
        return self._rest + own


@asynccontextmanager
async def tritons() -> AsyncIterator[Tritons]:
    """The server on the ports of Triton's metrics and of the agent."""
    found = Tritons()
    servers = [
        await asyncio.start_server(found.serve, "127.0.0.1", port)
        for port in (names.TRITON_METRICS_PORT, names.AGENT_PORT)
    ]
    try:
        yield found
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()
