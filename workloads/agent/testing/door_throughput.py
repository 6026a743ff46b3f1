"""Streamed tokens a second that the OpenAI door stands on one core, in front of an engine that answers at once.

    python testing/door_throughput.py [STREAMS [TOKENS]]    (in workloads/agent, with the Python of ../server/venv.py)

Door, engine and client are three processes. What counts is the door's CPU time, so that the others, or whoever else is
on the machine, matter little; the wall time is told beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

from harness import WORKLOADS, wait_for  # noqa: E402
from pod import Pod, write_files  # noqa: E402


async def stream(port: int, tokens: int) -> int:
    """Ask for one stream; how many chunks came."""
    fields = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens, "stream": True}
    body = json.dumps(fields).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    count = 0
    while part := await reader.read(1 << 20):
        count += part.count(b'"content": "w')
    writer.close()
    return count


async def streams(port: int, many: int, tokens: int) -> int:
    return sum(await asyncio.gather(*(stream(port, tokens) for _ in range(many))))


def main() -> None:
    many, tokens = (
        int(given) if given else preset for given, preset in zip([*sys.argv[1:], "", ""], (16, 3000), strict=False)
    )
    with tempfile.TemporaryDirectory() as folder:
        pod = Pod(Path(folder))
        write_files(pod.models, "tiny", config={})
        engine = [sys.executable, str(Path(__file__).with_name("stand_in.py")), str(pod.triton.port)]
        environ = {**os.environ, "PYTHONPATH": str(WORKLOADS / "contract")}
        with subprocess.Popen(engine, stdout=subprocess.PIPE, env=environ) as triton:
            try:
                assert triton.stdout is not None
                triton.stdout.readline()
                pod.start()
                wait_for("the model is offered", lambda: "tiny" in pod.listed(), 30, pod.tail)
                asyncio.run(streams(pod.port, 2, 100))
                before, started = pod.cpu_seconds(), time.monotonic()
                came = asyncio.run(streams(pod.port, many, tokens))
                cpu, wall = pod.cpu_seconds() - before, time.monotonic() - started
                assert came >= many * tokens * 0.99, f"{came} of {many * tokens} came\n{pod.tail()}"
            finally:
                pod.end()
                triton.kill()
    speed = f"{came / cpu:.0f} tokens per CPU second, {came / wall:.0f} a second by the clock"
    print(f"{many} streams of {tokens} tokens: {speed}")


if __name__ == "__main__":
    main()
