"""`make bench-peers`: JobSet's and Kubeflow Trainer's controllers and ours with the same jobs, one after another.

    python -m tests.bench.peers [SCENARIO ...] [--scale 0.1] [--limits raised] [--side jobset] [--docs]

The programs are built once and kept where those of the local cluster are. Every side starts a control plane of its own
and ends it; nothing is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.bench import record, report
from tests.bench.__main__ import machine, moment
from tests.bench.peers import controllers, measure, table
from tests.bench.plane import ROOT
from tests.bench.sides import Load
from tests.bench.verdict import judge

Json = dict[str, Any]
Measure = Callable[..., Coroutine[Any, Any, Json]]

SCENARIOS: dict[str, tuple[Measure, Load]] = {
    "jobs-1": (measure.jobs, Load(1000, 1)),
    "jobs-8": (measure.jobs, Load(100, 8)),
    "restart": (measure.restart, Load(20, 8, short=False)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description="Measure others beside ours.")
    parser.add_argument("scenario", nargs="*", help=f"of: {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of jobs")
    parser.add_argument("--limits", action="append", choices=measure.LIMITS, help="client limits (default: both)")
    parser.add_argument("--side", action="append", choices=list(measure.SIDES), help="who (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="directory for the figures")
    parser.add_argument("--docs", action="store_true", help="put the figures into docs/performance.json and its page")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.scenario if name not in SCENARIOS]:
        parser.error(f"no scenario named {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    if options.docs and (options.scenario or options.limits or options.side):
        parser.error("--docs: a comparison is of one run with everything in it; leave out what chooses a part")
    # SIGTERM ends a run as Ctrl-C does: control planes are taken down and their directories removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.output.mkdir(parents=True, exist_ok=True)
    found: Json = {"taken": moment() | machine(), "scale": options.scale, "scenarios": {}}
    found["versions"] = {name: controllers.version(name) for name in controllers.MODULES}
    for name in options.scenario or SCENARIOS:
        found["scenarios"][name] = _scenario(name, options)
        (options.output / "peers.json").write_text(json.dumps(found, indent=1))
    print(table.section(found))
    if options.docs:
        publish(found, ROOT / "docs")
    return 0


def _scenario(name: str, options: argparse.Namespace) -> Json:
    run, full = SCENARIOS[name]
    load = Load(max(1, round(full.count * options.scale)), full.nodes, short=full.short)
    measured: Json = {}
    for limits in options.limits or measure.LIMITS:
        for side in options.side or measure.SIDES:
            started = time.monotonic()
            print(f"{name}, limits {limits}: {side} ...", flush=True)
            figures = asyncio.run(run(side, load, raised=limits == "raised"))
            measured.setdefault(limits, {})[side] = figures
            print(f"  {time.monotonic() - started:.0f} s: {json.dumps(figures)}", flush=True)
    return {"jobs": load.count, "nodes": load.nodes, "measured": measured}


def publish(found: Json, docs: Path) -> None:
    """Put the figures into the record, and write the page."""
    kept = {**record.load(docs), "peers": found}
    record.save(kept, docs)
    report.write_pages(kept["scenarios"], {}, judge(kept["scenarios"]), docs, peers=found)


if __name__ == "__main__":
    sys.exit(main())
