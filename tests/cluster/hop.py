"""What a gateway costs: the same load through it and straight to a pod, in turns, so that both meet the same machine.

Asked are, at Triton's port: whether the model is ready (next to nothing to compute), and eight tokens; at OpenAI's
port: streams of tokens. Told are medians over the rounds: seconds of an answer, answers and pieces a second.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time

from tests.support.kubectl import Kubectl

ROUNDS = 7
SECONDS = 4.0


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


def measure(cluster: Kubectl, pool: str, model: str) -> None:
    """Print what there is to say about a pool of one pod and one proxy."""
    (pod,) = cluster.list("pods", f"aifactory.dev/pool-name={pool},aifactory.dev/role=serve")
    hosts = pod["status"]["podIP"], cluster.get("service", pool)["spec"]["clusterIP"]
    ready = f"GET /v2/models/{model}/ready HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    eight = post(f"/v2/models/{model}/generate", {"text_input": "def ", "max_tokens": 8})
    stream = post("/v1/completions", {"model": model, "prompt": "def ", "max_tokens": 60, "stream": True})
    for what, port, text in (("ready", 8000, ready), ("8 tokens", 8000, eight), ("stream of 60 tokens", 9000, stream)):
        for clients in (1, 8):
            rounds = [[asyncio.run(load(host, port, text, clients)) for host in hosts] for _ in range(ROUNDS)]
            direct, through = (
                [statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*rounds, strict=True)
            )
            line = f"{what}, {clients} clients: p50 {direct[0] * 1e3:.2f} -> {through[0] * 1e3:.2f} ms"
            line += f", {direct[1]:.0f} -> {through[1]:.0f} answers/s ({through[1] / direct[1]:.2f})"
            if direct[2]:
                line += f", {direct[2]:.0f} -> {through[2]:.0f} pieces/s ({through[2] / direct[2]:.2f})"
            print(line, flush=True)
