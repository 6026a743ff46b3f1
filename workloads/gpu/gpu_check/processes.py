"""The training program, started as its pod starts it: with the factory's environment variables."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aifactory_trainer.model import GPTConfig

_STEP = re.compile(r"step (\d+)/(\d+)  loss ([\d.]+|nan|inf)(?:  ([\d,]+) tokens/s)?(?:  MFU ([\d.]+)%)?")


class EndedBadly(Exception):
    """A process did not end as it should; the message has the end of its log."""


@dataclass
class Training:
    """A training job's process.

    Attributes:
        root: its workspace; another attempt with the same one resumes.
        processes: ranks on this machine, under torchrun; 0: one without it.
        module: the program.
    """

    root: Path
    arguments: Sequence[str]
    processes: int = 1
    module: str = "aifactory_trainer.pretrain"
    peak_bytes: int | None = field(default=None, init=False)
    """Device memory that was in use at most, less what was in use before."""

    def start(self) -> subprocess.Popen[bytes]:
        self.root.mkdir(parents=True, exist_ok=True)
        self.termination_log.write_text("")
        env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "AIFACTORY_CHECKPOINTS": str(self.root / "checkpoints"),
            "AIFACTORY_OUTPUT": str(self.output),
            "AIFACTORY_TERMINATION_LOG": str(self.termination_log),
        }
        torchrun = (
            *("-m", "torch.distributed.run", f"--nproc-per-node={self.processes}", "--rdzv-backend=c10d"),
            *("--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
        )
        launcher = torchrun if self.processes else ()
        with self.log_file.open("w") as log:
            return subprocess.Popen(
                [sys.executable, *launcher, "-m", self.module, *self.arguments],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self, seconds: float = 150.0) -> float:
        """Start it and wait for its good end; returns how long it took."""
        began = time.monotonic()
        with self.watched():
            code = wait(self.start(), seconds)
        if code != 0:
            raise EndedBadly(f"training ended with {code}; its log ends with:\n{self.log[-3000:]}")
        return time.monotonic() - began

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the device's memory all the while."""
        if not torch.cuda.is_available():
            yield
            return
        over, before = threading.Event(), torch.cuda.mem_get_info()
        least = before[0]

        def look() -> None:
            nonlocal least
            while not over.wait(0.02):
                least = min(least, torch.cuda.mem_get_info()[0])

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.peak_bytes = before[0] - least

    @property
    def log_file(self) -> Path:
        return self.root / "log.txt"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def termination_log(self) -> Path:
        return self.root / "termination-log"

    @property
    def message(self) -> str:
        """Why it ended, as the operator would read it."""
        text = self.termination_log.read_text()
        return str(json.loads(text)["message"]["message"]) if text else ""

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the exported model."""
        found: dict[str, float] = json.loads((self.output / "config.json").read_text())["metrics"]
        return found

    @property
    def last_step(self) -> dict[str, Any]:
        """What the last line of progress says."""
        found = _STEP.findall(self.log)
        step, _, loss, speed, mfu = found[-1]
        told = {
            "mfu": round(float(mfu) / 100, 4) if mfu else None,
            "tokensPerSecond": float(speed.replace(",", "") or 0),
        }
        return {"step": int(step), "loss": float(loss), **told}

    def steps_saved(self) -> list[int]:
        names = [path.name[5:] for path in (self.root / "checkpoints").glob("step-*")]
        return sorted(int(name) for name in names if name.isdigit())

    def stop_after(self, step: int, seconds: float = 120.0) -> int:
        """Start it, send SIGTERM once a checkpoint of this step is there; returns the exit code."""
        process, deadline = self.start(), time.monotonic() + seconds
        while not (saved := self.steps_saved()) or saved[-1] < step:
            if process.poll() is not None or time.monotonic() > deadline:
                end(process)
                raise EndedBadly(f"no checkpoint of step {step} came; the log ends with:\n{self.log[-3000:]}")
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        return wait(process, seconds)


def shape(config: GPTConfig) -> tuple[str, ...]:
    """The options of the training program that make this model."""
    return (
        f"--context={config.context}",
        f"--layers={config.layers}",
        f"--heads={config.heads}",
        f"--embedding={config.embedding}",
    )


def wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Its exit code; one that does not end in time is ended, with all below it."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise EndedBadly(f"a process did not end in {seconds:.0f} s") from None


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it started: torchrun's workers have sessions of their own and would go on."""
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(root: int) -> list[int]:
    """Process ids below one, by the parents in /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]
