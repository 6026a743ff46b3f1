"""The two sides of a comparison behind one face: the operator with a user who creates jobs, and the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal
from tests.bench.limit import AGENT as LIMIT_AGENT
from tests.bench.objects import JOBS, job, job_names
from tests.bench.plane import BenchPlane, furnish
from tests.bench.processes import Operator, Process

OPERATOR_AGENT = "aifactory-operator"


async def repeated(pair: Callable[[], Awaitable[dict[str, Any]]], times: int) -> dict[str, Any]:
    """Measure both sides `times` times.

    Ratios are medians, the figures are those of the pair with the middle ratio of pods created: a virtual machine's
    cores may be a third faster in one minute than in the next.
    """
    runs = [await pair() for _ in range(times)]
    found = sorted(runs, key=lambda run: float(run["ratios"]["podsCreated"]))[len(runs) // 2]
    ratios = [run["ratios"] for run in runs]
    found["allRatios"] = ratios
    found["ratios"] = {name: round(median(each[name] for each in ratios), 2) for name in ratios[0]}
    return found


@dataclass(frozen=True)
class Load:
    """The jobs of a scenario."""

    count: int
    nodes: int
    short: bool = True
    gang: bool = False

    @property
    def pods(self) -> int:
        return self.count * self.nodes


@dataclass
class Side:
    """One side at work on a control plane of its own."""

    name: str
    plane: BenchPlane
    journal: Journal
    process: Process
    user: Client
    load: Load
    _cpu: dict[str, float] = field(default_factory=dict)

    @property
    def agent(self) -> str:
        return OPERATOR_AGENT if self.name == "ours" else LIMIT_AGENT

    async def go(self) -> None:
        """Start the clock: from here on jobs are created. Returns when the user has created them."""
        self.start_cpu()
        await create_jobs(self.user, self.load)

    def start_cpu(self) -> None:
        self._cpu = self._cpu_now()

    def cpu(self) -> dict[str, float]:
        """CPU seconds since `go` by process."""
        return {name: round(value - self._cpu[name], 2) for name, value in self._cpu_now().items()}

    def _cpu_now(self) -> dict[str, float]:
        pids = {**self.plane.pids(), "controller": self.process.pid}
        return {name: processes.cpu_seconds(pid) for name, pid in pids.items()}

    def check(self) -> None:
        self.process.check()


async def _operator(plane: BenchPlane) -> Operator:
    operator = Operator(plane)
    await operator.ready()
    return operator


async def create_jobs(user: Client, load: Load) -> None:
    bodies = [job(name, load.nodes, short=load.short, gang=load.gang) for name in job_names(load.count)]
    await each(bodies, lambda body: user.request("POST", JOBS, body))


@asynccontextmanager
async def side(name: str, load: Load) -> AsyncIterator[Side]:
    """A fresh control plane with one side ready to go."""
    async with bench_plane() as plane:
        if name == "ours":
            process: Process = await _operator(plane)
        else:
            arguments = ["--count", str(load.count), "--nodes", str(load.nodes)]
            arguments += ["--gang"] if load.gang else []
            arguments += [] if load.short else ["--long"]
            process = processes.limit(plane, *arguments)
            await process.line()
        try:
            async with Client(plane.service_account("user"), "aifactory-bench-user") as user:
                await asyncio.sleep(2.0)  # the controllers have just started: let them come to rest
                yield Side(name, plane, Journal(plane.audit_log), process, user, load)
        finally:
            process.stop(kill=name == "limit")


@asynccontextmanager
async def bench_plane() -> AsyncIterator[BenchPlane]:
    """A control plane with everything in place, removed at the end."""
    plane = BenchPlane()
    with plane:
        await furnish(plane)
        yield plane


async def ours_metrics(process: Process) -> dict[str, Any]:
    """What only the operator has: memory and the lateness of its event loop."""
    assert isinstance(process, Operator)
    used = processes.memory(process.pid)
    lag = processes.lag_p99_ms(await process.metrics())
    return {"rssMiB": round(used.now, 1), "peakRssMiB": round(used.peak, 1), "loopLagP99Ms": lag}


async def at_rest(operator: Operator) -> None:
    """Wait until the operator uses next to no CPU: every object has been looked at."""
    while True:
        before = processes.cpu_seconds(operator.pid)
        await asyncio.sleep(2.0)
        if processes.cpu_seconds(operator.pid) - before < 0.1:
            return
