"""The measured processes: started by us, ended by us, looked at through /proc."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.bench.plane import ROOT, BenchPlane

TICKS = os.sysconf("SC_CLK_TCK")
_LAG = re.compile(r'^aifactory_event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([\d.e+]+)$', re.MULTILINE)


class ProcessEnded(Exception):
    """A process that should run does not; the message has the end of its log."""


@dataclass(frozen=True)
class Memory:
    """In MiB."""

    now: float
    peak: float


class Process:
    """One child process with a log file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._log = log
        base = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        base["PYTHONPATH"] = os.pathsep.join((str(ROOT / "operator"), str(ROOT)))
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                # The kernel ends it if we are ended, however that happens.
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=ROOT,
                env=base | (environment or {}),
            )
        self.pid = self._child.pid

    def check(self) -> None:
        """Raise ProcessEnded if it has ended."""
        if self._child.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise ProcessEnded(f"{self.name} ended with {self._child.returncode}; its log ends with:\n{tail}")

    async def line(self) -> str:
        """The next line it prints. Raises ProcessEnded if there will be none."""
        assert self._child.stdout is not None
        line = (await asyncio.to_thread(self._child.stdout.readline)).decode().strip()
        if not line:
            self._child.wait(5)
            self.check()
        return line

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def stop(self, kill: bool = False) -> None:
        """End it, if it runs."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self._child.wait(20)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


class Operator(Process):
    """The operator as it runs in a pod, with the chart's rights. `leader_elect` for more than one."""

    def __init__(self, plane: BenchPlane, *, leader_elect: bool = False, name: str = "operator") -> None:
        self._port, self.progress_port = free_port(), free_port()
        command = [*_python(), "-m", "aifactory.app", "--http-port", str(self._port)]
        command += ["--progress-port", str(self.progress_port)]
        command += [] if leader_elect else ["--no-leader-elect"]
        environment = {"KUBECONFIG": str(plane.service_account("aifactory-operator")), "POD_NAME": name}
        environment["POD_IP"] = "127.0.0.1"
        super().__init__(name, command, plane.directory / f"{name}.log", environment)

    async def ready(self, seconds: float = 180.0) -> float:
        """Wait until every store is complete; returns how long that took."""
        started = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while True:
                self.check()
                try:
                    async with session.get(f"http://127.0.0.1:{self._port}/readyz") as response:
                        if response.status == 200:
                            return time.monotonic() - started
                except aiohttp.ClientError:
                    pass
                if time.monotonic() - started > seconds:
                    raise TimeoutError(f"{self.name} is not ready after {seconds:.0f} s")
                await asyncio.sleep(0.05)

    async def metrics(self) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self._port}/metrics") as response,
        ):
            return await response.text()


def _python() -> list[str]:
    """This interpreter; AIFACTORY_BENCH_PROFILE names a file for a profile of the operator."""
    profile = os.environ.get("AIFACTORY_BENCH_PROFILE")
    return [sys.executable, *(["-m", "cProfile", "-o", profile] if profile else [])]


def limit(plane: BenchPlane, *arguments: str) -> Process:
    """The bare client, which has yet to say that it is ready."""
    command = [sys.executable, "-m", "tests.bench.limit", str(plane.service_account("limit")), *arguments]
    return Process("limit", command, plane.directory / "limit.log")


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def waited_seconds(pid: int) -> float:
    """Time a process was ready to run and got no CPU: an event loop that is late for that is not late by itself."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def memory(pid: int) -> Memory:
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    return Memory(int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024)


def lag_p99_ms(page: str, earlier: str = "") -> float:
    """Upper bound of the 99th percentile of the event loop's lateness, as the histogram's buckets tell it.

    `earlier` is the metrics page at the beginning of the time that counts.
    """
    before = dict(_LAG.findall(earlier))
    buckets = [(float(bound), float(count) - float(before.get(bound, 0))) for bound, count in _LAG.findall(page)]
    total = buckets[-1][1] if buckets else 0.0
    return next((bound * 1000 for bound, count in buckets if count >= 0.99 * total), 0.0) if total else 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
