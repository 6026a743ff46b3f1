"""Speed of a pod's OpenAI endpoint against that of another server: one model, one machine, one run.

    python testing/endpoint_speed.py MODEL_DIRECTORY [--clients 1 8] [--tokens 64] [--rounds 5] [--json FILE]
        [--peer-dtype float32] [--peer vllm --peer-python PYTHON]

The other is `transformers serve --continuous-batching`, which ours is to keep up with (exit code 1 if it does not), or
vLLM for CPUs, with a Python of its own (docs/engines.md).

In workloads/agent, with the Python of ../server/venv.py, on a quiet machine. Both servers are up all the time and take
turns, the first round of each is thrown away, figures are medians of the rounds. Each client asks once a round, for a
streamed chat of at most so many tokens with temperature 0; tokens are those that the servers count, and both must have
generated as many. The other computes in the type of the weights, as ours does on a CPU that can; elsewhere give it what
it is quickest in (--peer-dtype float32). Both have a cache of as many tokens: left to itself, the other takes most of
the machine's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

from endpoint import Endpoint  # noqa: E402
from load import Connection, Round, cpu_seconds, stream_chat  # noqa: E402
from peer import Peer, TransformersServe, VllmServe  # noqa: E402

_NAME = "model"
_CACHE_TOKENS, _PAGE = 16_384, 32
_LEAST_RATIO, _MOST_LATER = 0.9, 0.015


@dataclass
class Side:
    """One of the two servers."""

    title: str
    server: Endpoint | Peer
    model: str

    async def round(self, clients: int, tokens: int, number: int) -> Round:
        before, started = cpu_seconds(self.server.processes()), time.monotonic()
        found = await asyncio.gather(*(self._ask(tokens, 1000 * number + client) for client in range(clients)))
        seconds = time.monotonic() - started
        cpu = cpu_seconds(self.server.processes()) - before
        return Round(sum(count for count, _ in found), seconds, cpu, tuple(first for _, first in found))

    async def _ask(self, tokens: int, number: int) -> tuple[int, float]:
        # Prompts differ from their beginning on, so that no cache of an earlier one helps.
        content = f"{number} foxes and a river: write a long story about them, with many details."
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        body |= {"max_tokens": tokens, "temperature": 0}
        if not isinstance(self.server, TransformersServe):  # which tells it always
            body["stream_options"] = {"include_usage": True}
        connection = Connection(self.server.port)
        try:
            return await stream_chat(connection, body)
        finally:
            connection.close()


def compare(sides: list[Side], clients: int, tokens: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[Round]] = {side.title: [] for side in sides}
    for number in range(rounds + 1):
        for side in sides if number % 2 else reversed(sides):
            came = asyncio.run(side.round(clients, tokens, number))
            if number:
                found[side.title].append(came)
    ours, peer = (found[side.title] for side in sides)
    result: dict[str, Any] = {"clients": clients}
    for title, came in found.items():
        firsts = [first for one in came for first in one.first]
        result[title] = {
            "tokensPerSecond": round(median(one.rate for one in came), 1),
            "rounds": [round(one.rate, 1) for one in came],
            "tokensPerCpuSecond": round(sum(one.tokens for one in came) / sum(one.cpu for one in came), 1),
            "firstTextMs": round(median(firsts) * 1000, 1),
            "tokens": sum(one.tokens for one in came),
        }
    result["ratio"] = round(median(one.rate for one in ours) / median(one.rate for one in peer), 3)
    own, other = (result[side.title]["firstTextMs"] for side in sides)
    result["laterMs"] = round(own - other, 1)
    if isinstance(sides[1].server, TransformersServe):
        result["met"] = result["ratio"] >= _LEAST_RATIO and result["laterMs"] <= _MOST_LATER * 1000
    return result


def cache_bytes(model: Path) -> int:
    """Of a cache of so many tokens in float32, and a tenth more."""
    config = json.loads((model / "config.json").read_text())
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    each = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * size * 4
    return int(_CACHE_TOKENS * each * 1.1)


def make_peer(options: argparse.Namespace, root: Path) -> Peer:
    """The other server, with a cache of as many tokens as ours."""
    model = options.model.resolve()
    if options.peer == VllmServe.title:
        size = ["--max-model-len", "2048", "--kv-cache-memory-bytes", str(cache_bytes(model))]
        return VllmServe(options.peer_python, model, root, "--dtype", options.peer_dtype, *size)
    cache = ["--cb-block-size", str(_PAGE), "--cb-num-blocks", str(_CACHE_TOKENS // _PAGE)]
    return TransformersServe(model, root, "--dtype", options.peer_dtype, *cache)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", choices=[TransformersServe.title, VllmServe.title], default=TransformersServe.title)
    parser.add_argument("--peer-python", type=Path, help="of an environment with vLLM; needed for --peer vllm")
    parser.add_argument("--peer-dtype", default="auto")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    if options.peer == VllmServe.title and not (options.peer_python and options.peer_python.is_file()):
        parser.error("--peer vllm needs --peer-python, the Python of an environment with vLLM for CPUs")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pod = Endpoint(root, AIFACTORY_ENGINE_CACHE_BYTES=str(cache_bytes(options.model)))
        peer = make_peer(options, root)
        try:
            pod.open()
            pod.load(_NAME, options.model)
            peer.open()
            sides = [Side("ours", pod, _NAME), Side(peer.title, peer, peer.name)]
            results = []
            for clients in options.clients:
                results.append(compare(sides, clients, options.tokens, options.rounds))
                print(json.dumps(results[-1], indent=1), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")
        except Exception:
            print(pod.tail(), peer.tail(), sep=f"\n-- {peer.title}:\n", file=sys.stderr)
            raise
        finally:
            pod.close()
            peer.close()
    sys.exit(0 if all(result.get("met", True) for result in results) else 1)


if __name__ == "__main__":
    main()
