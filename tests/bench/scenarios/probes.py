"""Serving pods that are asked for their counters: what asking costs, and how often a pool's changing figures are told.

Figures mean nothing here (every pod shows the same page); that they change all the time is what counts.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, by_target
from tests.bench.objects import POOLS
from tests.bench.processes import Operator
from tests.bench.scenarios.pools import pool, publish
from tests.bench.sides import OPERATOR_AGENT, bench_plane
from tests.bench.tritons import LABEL, Tritons, tritons

Json = dict[str, Any]

PATIENCE_SECONDS = 1800.0
WARM_SECONDS = 60.0
"""Long enough for the pods to be asked in turn, and for the first figures of all pools."""
MEASURED_SECONDS = 120.0
ALONE_SECONDS = 90.0


class House:
    """The operator, its pools and what its probes talk to."""

    def __init__(self, journal: Journal, user: Client, operator: Operator, served: Tritons) -> None:
        self.journal, self.user, self.operator, self.served = journal, user, operator, served

    async def add(self, names: list[str], replicas: int) -> None:
        """More pools; returns when all of them serve."""

        async def create(name: str) -> None:
            body = pool(name)
            body["spec"] |= {"replicas": replicas, "template": {"metadata": {"labels": {LABEL: "true"}}}}
            await self.user.request("POST", POOLS, body)

        known = self.journal.read()
        await each(names, create)

        def left() -> str:
            told = self.journal.select("patch", "inferencepools/status", since=known)
            serving = {write.name for write in told if write.phase == "Serving"}
            return "" if len(serving) == len(names) else f"{len(serving)} of {len(names)} pools serve"

        await self.journal.wait(left, "every pool serves", seconds=PATIENCE_SECONDS, alive=self.operator.check)

    async def watch(self, seconds: float) -> Json:
        """What the operator does for so long while nothing changes but the figures."""
        known, page, asked = self.journal.read(), await self.operator.metrics(), self.served.asked
        began, before = time.monotonic(), processes.cpu_seconds(self.operator.pid)
        await asyncio.sleep(seconds)
        took, used = time.monotonic() - began, processes.cpu_seconds(self.operator.pid) - before
        self.journal.read()
        writes = [write for write in self.journal.writes[known:] if write.agent == OPERATOR_AGENT]
        told = sorted(write.at for write in writes if write.resource == "inferencepools/status")
        return {
            "seconds": round(took, 1),
            "operatorCores": round(used / took, 3),
            "asksPerSecond": round((self.served.asked - asked) / took, 1),
            "writes": by_target(writes),
            "statusWritesPerSecond": round(len(writes) / took, 2),
            "longestGapSeconds": round(max((b - a for a, b in itertools.pairwise(told)), default=took), 1),
            "loopLagP99Ms": processes.lag_p99_ms(await self.operator.metrics(), page),
            "rssMiB": round(processes.memory(self.operator.pid).now, 1),
        }


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with bench_plane() as plane, Client(plane.service_account("user"), "aifactory-bench-user") as user:
        operator = Operator(plane)
        try:
            await operator.ready()
            await publish(user, 1)
            async with tritons() as served:
                yield House(Journal(plane.audit_log), user, operator, served)
        finally:
            operator.stop()


async def run(count: int, replicas: int) -> Json:
    """Many pools of several pods."""
    async with house() as at:
        await at.add([f"pool-{index:04d}" for index in range(count)], replicas)
        await at.journal.settle(OPERATOR_AGENT, quiet=1.0)
        await asyncio.sleep(WARM_SECONDS)
        return {"pools": count, "pods": count * replicas} | await at.watch(MEASURED_SECONDS)


async def busy(count: int) -> Json:
    """One pool whose figures change all the time, then many more of them."""
    async with house() as at:
        await at.add(["alone"], 1)
        await asyncio.sleep(WARM_SECONDS)
        alone = await at.watch(ALONE_SECONDS)
        await at.add([f"pool-{index:04d}" for index in range(count - 1)], 1)
        await asyncio.sleep(WARM_SECONDS)
        return {"pools": count, "alone": alone, "all": await at.watch(MEASURED_SECONDS)}
