"""`make bench`: run scenarios, print the table, keep the figures, fail when one leaves its range.

    python -m tests.bench [SCENARIO ...] [--scale 0.1] [--idle-seconds 60] [--docs]

Every scenario starts control planes of its own and ends them; nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import record, report
from tests.bench.plane import ROOT
from tests.bench.scenarios import jobs, poison, pools, probes, reports, restart, scale, start, steady
from tests.bench.sides import Load
from tests.bench.verdict import judge

_PROC_STAT = Path("/proc/stat")
Scenario = Callable[[argparse.Namespace], Awaitable[dict[str, Any]]]


def _scaled(options: argparse.Namespace, count: int) -> int:
    return max(1, round(count * float(options.scale)))


SCENARIOS: dict[str, Scenario] = {
    "jobs-1": lambda o: jobs.run(Load(_scaled(o, 1000), 1), pairs=5),
    "jobs-paced": lambda o: jobs.paced(Load(_scaled(o, 300), 1), per_second=10.0),
    "jobs-8": lambda o: jobs.run(Load(_scaled(o, 100), 8), pairs=3),
    "gangs-8": lambda o: jobs.run(Load(_scaled(o, 100), 8, gang=True), pairs=3),
    "restart": lambda o: restart.run(Load(_scaled(o, 20), 8, short=False), pairs=3),
    "large": lambda o: restart.run(Load(1, _scaled(o, 1000), short=False), pairs=3),
    "pools": lambda o: pools.run(_scaled(o, 500)),
    "steady": lambda o: steady.run(Load(_scaled(o, 1000), 8, short=False), o.idle_seconds),
    "reports": lambda o: reports.run(Load(_scaled(o, 1000), 8, short=False)),
    "probes": lambda o: probes.run(_scaled(o, 1000), 10),
    "busy-pools": lambda o: probes.busy(_scaled(o, 500)),
    "start-4000": lambda o: start.run(_scaled(o, 4000)),
    "scale-100k": lambda o: scale.run(Load(_scaled(o, 10_000), 10, short=False)),
    "poison": lambda o: poison.run(_scaled(o, 300)),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the operator on fake nodes.")
    parser.add_argument("scenario", nargs="*", help=f"of: {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of objects")
    parser.add_argument("--idle-seconds", type=float, default=300.0, help="how long the steady scenario rests")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="directory for the figures")
    parser.add_argument("--docs", action="store_true", help="put the figures into docs/performance.json and its page")
    parser.add_argument("--only-docs", action="store_true", help="measure nothing, write the page anew")
    options = parser.parse_args()
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario named {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    # SIGTERM ends a run as Ctrl-C does: control planes are taken down and their directories removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.output.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {}
    names = [] if options.only_docs else options.scenario or list(SCENARIOS)
    for name in names:
        taken = moment() | machine()
        print(f"{name} ... (others use {taken['othersCores']} cores)", flush=True)
        started = time.monotonic()
        measured[name] = asyncio.run(_run(name, options)) | {"taken": taken, "scale": options.scale}
        (options.output / f"{name}.json").write_text(json.dumps(measured[name], indent=1))
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        print(report.table(judge({name: measured[name]})), flush=True)
        if options.docs:
            publish({name: measured[name]}, ROOT / "docs")
    if options.only_docs:
        publish({}, ROOT / "docs")
    left = [verdict for verdict in judge(measured) if not verdict.in_range]
    for verdict in left:
        print(
            f"out of range: {verdict.what}: {verdict.value:g}, not in {verdict.low:g} to {verdict.high:g}",
            file=sys.stderr,
        )
    return 1 if left else 0


def publish(measured: dict[str, Any], docs: Path) -> None:
    """Put figures into the record, and write the page and their pictures."""
    kept = record.merged(record.load(docs), measured, SCENARIOS)
    record.save(kept, docs)
    report.write_pages(kept["scenarios"], measured, judge(kept["scenarios"]), docs, peers=kept.get("peers"))


async def _run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return await SCENARIOS[name](options)


def moment() -> dict[str, Any]:
    """When this is measured, of what, and how busy the machine is. Figures of several runs are kept side by side."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit.strip() or "unknown",
        "othersCores": _busy_cores(),
    }


def _busy_cores(seconds: float = 3.0) -> float:
    """Cores in use while nothing of ours runs; what a hypervisor takes away counts as used."""

    def used() -> int:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, _PROC_STAT.read_text().split()[1:9])
        return user + nice + system + irq + softirq + steal

    before, started = used(), time.monotonic()
    time.sleep(seconds)
    return round((used() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - started), 2)


def machine() -> dict[str, Any]:
    """Where this is measured."""
    processors = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", processors, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    versions = (ROOT / "localcluster" / "parts" / "kubernetes" / "go.mod").read_text()
    kubernetes = re.search(r"k8s\.io/kubernetes (v[\d.]+)", versions)
    return {
        "cpus": os.cpu_count(),
        "model": model.group(1) if model else platform.machine(),
        "memory": round(int(memory.group(1)) / (1 << 20)) if memory else 0,
        "kubernetes": kubernetes.group(1) if kubernetes else "unknown",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
