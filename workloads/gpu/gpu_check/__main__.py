"""`make gpu-check`: run the parts, write result.json, table.txt and log.txt, and fail when a part has failed.

PYTHONPATH=workloads/gpu:workloads/trainer:workloads/server:workloads/contract python3 -m gpu_check --out DIR
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from gpu_check import report, serving, training, units
from gpu_check.parts import FULL, TINY, Outcome, Place, machine
from gpu_check.processes import EndedBadly, wait


def generate(place: Place) -> Outcome:
    """Imported late: the other parts do without its packages."""
    from gpu_check import generating

    return generating.generate(place)


def embed(place: Place) -> Outcome:
    """Imported late, as `generate` is."""
    from gpu_check import embedding

    return embedding.embed(place)


def fine_tune(place: Place) -> Outcome:
    """Imported late, as `generate` is."""
    from gpu_check import tuning

    return tuning.fine_tune(place)


PARTS: dict[str, Callable[[Place], Outcome]] = {
    "generate": generate,
    "embed": embed,
    "fine-tune": fine_tune,
    "tests": units.tests,
    "resumed": training.resumed,
    "divided": training.divided,
    "random-state": training.random_state,
    "ranks": training.ranks,
    "export": serving.export,
    "answers": serving.answers,
    "engine": serving.engine,
    "speed": training.speed,
    "speed-1b": training.speed_1b,
}
NEEDS = {
    "generate": ("transformers", "tokenizers", "llguidance", "psutil"),
    "embed": ("transformers", "tokenizers"),
    "fine-tune": ("transformers", "tokenizers", "peft"),
    "divided": ("transformers", "tokenizers"),
    "speed-1b": ("transformers", "tokenizers"),
}
"""Packages beside PyTorch without which a part can not run."""
PART_SECONDS = 200.0
TOGETHER = ("tests", "resumed", "divided", "random-state", "ranks", "export")
"""Run at the same time where they follow one another: mostly they wait for processes to start, and measure no speed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description="Check the trainer and the server on a GPU.")
    parser.add_argument("part", nargs="*", help=f"of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), help="directory for what was found")
    parser.add_argument("--tiny", action="store_true", help="in miniature, on the CPU")
    parser.add_argument("--docs", type=Path, metavar="RESULT", help="measure nothing: put a result on record")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.docs:
        report.publish(json.loads(options.docs.read_text()))
        return 0
    unknown = [name for name in options.part if name not in PARTS]
    if unknown:
        parser.error(f"no part named {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    if not options.tiny and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --tiny runs in miniature on the CPU")
    if options.work:  # a part's own process
        return run_part(options.part[0], options.work, options.tiny)
    return run_all(options.part or list(PARTS), options.out.absolute(), options.tiny)


def run_all(names: list[str], out: Path, tiny: bool) -> int:
    """Each part in a process of its own; the files are written anew after each."""
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"taken": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "tiny": tiny, "machine": {}}
    result["parts"] = {}
    writing = Lock()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder, (out / "log.txt").open("w") as log:
        work = Path(folder)

        def run(name: str) -> None:
            part, said = own_process(name, work, tiny)
            with writing:
                result["machine"] = part.pop("machine", result["machine"])
                result["parts"][name] = part
                (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
                (out / "table.txt").write_text(report.table(result))
                log.write(f"\n==== {name}\n{said}")
                log.flush()
                print(f"{name}: {'failed' if report.failed(part) else 'ok'}, {part['seconds']} s", flush=True)

        for together, group in groupby(names, TOGETHER.__contains__):
            with ThreadPoolExecutor(len(TOGETHER) if together else 1) as pool:
                list(pool.map(run, group))
        for path in sorted(work.glob("*/log.txt")):
            log.write(f"\n==== {path.parent.name}\n{path.read_text(errors='replace')[-20_000:]}")
    print(f"\n{report.table(result)}", flush=True)
    return int(any(report.failed(part) for part in result["parts"].values()))


def own_process(name: str, work: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    """What a part has found, and what its process has printed."""
    began, found, log = time.monotonic(), work / f"{name}.json", work / f"{name}.log"
    command = [sys.executable, "-m", "gpu_check", name, "--work", str(work), *(["--tiny"] if tiny else [])]
    try:
        with log.open("w") as file:
            code = wait(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), PART_SECONDS)
        part = json.loads(found.read_text()) if found.exists() else {"error": f"its process ended with {code}"}
    except EndedBadly as error:
        part = {"error": str(error)}
    part["seconds"] = round(time.monotonic() - began, 1)
    return part, log.read_text(errors="replace")


def run_part(name: str, work: Path, tiny: bool) -> int:
    """Run one here and write what it has found."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    device = torch.device("cpu") if tiny else torch.device("cuda", 0)
    torch.manual_seed(0)
    found: dict[str, Any] = {"machine": machine()}
    missing = [package for package in NEEDS.get(name, ()) if find_spec(package) is None]
    try:
        if missing:
            found["error"] = f"not run: install {' '.join(missing)} (workloads/server/requirements-test.lock)"
        else:
            found |= asdict(PARTS[name](Place(TINY if tiny else FULL, work, device)))
    except Exception:
        found["error"] = traceback.format_exc()[-6000:]
        traceback.print_exc()
    (work / f"{name}.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
