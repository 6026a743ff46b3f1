"""Short answers of the demo's model, many clients: the OpenAI endpoint, and Triton behind it, against a former Triton.

    python testing/short_answers.py [--former REVISION] [--clients 16] [--tokens 4] [--rounds 5]

In workloads/agent, with the Python of ../server/venv.py, on a quiet machine. The former code comes from git and runs
with today's packages. All are up all the time and take turns; the first round of each is thrown away, and figures are
medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parents[1] / part) for part in ("server", "server/testing", "contract", "agent")]

from harness import wait_for  # noqa: E402
from load import Connection, Round, cpu_seconds  # noqa: E402
from pod import Pod  # noqa: E402

_FORMER = "b33d88e"
"""The last one whose language models had an interface of their own, before there was an OpenAI endpoint."""
_PROMPT = "def "


@dataclass
class Side:
    title: str
    port: int
    path: str
    processes: list[int]
    body: dict[str, Any]
    count: Callable[[dict[str, Any]], int]

    async def round(self, clients: int, requests: int, number: int) -> Round:
        before, started = cpu_seconds(self.processes), time.monotonic()
        asked = (self._ask(requests, 100_000 * number + 1000 * client) for client in range(clients))
        tokens = sum(await asyncio.gather(*asked))
        return Round(tokens, time.monotonic() - started, cpu_seconds(self.processes) - before, ())

    async def _ask(self, requests: int, seed: int) -> int:
        connection, tokens = Connection(self.port), 0
        for number in range(requests):
            whole = b"".join([part async for part in connection.post(self.path, {**self.body, "seed": seed + number})])
            tokens += self.count(json.loads(whole))
        connection.close()
        return tokens


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The workloads of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.tar"
        subprocess.run(["git", "archive", "-o", str(archive), revision, "workloads"], cwd=ROOT, check=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


@contextmanager
def triton_of(tree: Path) -> Iterator[dict[str, Any]]:
    """A Triton of this code with the demo's model."""
    with tempfile.TemporaryDirectory() as folder:
        told, log = Path(folder) / "told.json", Path(folder) / "log"
        arguments = [sys.executable, str(HERE / "former.py"), str(tree), str(told)]
        with (
            log.open("wb") as out,
            subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=tree) as process,
        ):
            try:
                wait_for("Triton serves", told.exists, 120, lambda: log.read_text()[-4000:])
                yield json.loads(told.read_text())
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(60)


@contextmanager
def door_of(triton: dict[str, Any]) -> Iterator[Pod]:
    with tempfile.TemporaryDirectory() as folder:
        pod = Pod(Path(folder))
        pod.repository, pod.triton.port = Path(triton["repository"]), triton["grpc"]
        try:
            pod.start()
            wait_for("the model is offered", lambda: "tiny" in pod.listed(), 60, pod.tail)
            yield pod
        finally:
            pod.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--former", default=_FORMER)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--requests", type=int, default=50, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    most = {"max_tokens": options.tokens}
    generate = {"text_input": _PROMPT, **most}
    with ExitStack() as stack:
        old = stack.enter_context(triton_of(stack.enter_context(checkout(options.former))))
        new = stack.enter_context(triton_of(ROOT))
        door = stack.enter_context(door_of(new))
        assert door.pid is not None
        path = "/v2/models/tiny/generate"
        counted = {"exclude_input_in_output": True, "return_num_output_tokens": True}

        def told(answer: dict[str, Any]) -> int:
            return int(answer["num_output_tokens"])

        sides = [
            Side("former Triton", old["http"], path, old["processes"], generate, told),
            Side("Triton", new["http"], path, new["processes"], {**generate, **counted}, told),
            Side(
                "endpoint",
                door.port,
                "/v1/completions",
                [door.pid, *new["processes"]],
                {"model": "tiny", "prompt": _PROMPT, **most},
                lambda answer: int(answer["usage"]["completion_tokens"]),
            ),
        ]
        found: dict[str, list[Round]] = {side.title: [] for side in sides}
        for number in range(options.rounds + 1):
            for side in sides if number % 2 else reversed(sides):
                came = asyncio.run(side.round(options.clients, options.requests, number))
                if number:
                    found[side.title].append(came)
    former = median(one.rate for one in found["former Triton"])
    print(f"{options.clients} clients, answers of {options.tokens} tokens, {options.former} is the former one")
    for title, came in found.items():
        rate = median(one.rate for one in came)
        cpu = sum(one.tokens for one in came) / sum(one.cpu for one in came)
        each = ", ".join(f"{one.rate:.0f}" for one in came)
        print(f"{title:14} {rate:7.0f} tokens/s ({each}), {cpu:6.0f} a CPU second, {rate / former:.2f} of the former")


if __name__ == "__main__":
    main()
