"""A full house: many running jobs at rest, a storm of pod changes that mean nothing, a cold start, a killed leader.

One control plane carries all four, because filling it takes longer than all of them. What is measured is what the
operator must not do: write.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, by_target
from tests.bench.objects import PODS, attempt_of, failed_status, job_names, job_of
from tests.bench.plane import BenchPlane
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, Load, at_rest, bench_plane, create_jobs

Json = dict[str, Any]

PATIENCE_SECONDS = 1800.0
STORM_SECONDS = 20.0
LEASE_SECONDS = 15.0
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}


class House:
    """The control plane, the operators that run, and the user."""

    def __init__(self, plane: BenchPlane, user: Client, load: Load) -> None:
        self.plane, self.user, self.load = plane, user, load
        self.journal = Journal(plane.audit_log)
        self.operators: list[Operator] = []

    async def start(self) -> tuple[Operator, float]:
        """Another operator; and the seconds until its stores were complete."""
        operator = Operator(self.plane, leader_elect=True, name=f"operator-{len(self.operators)}")
        self.operators.append(operator)
        return operator, await operator.ready()

    def writes(self, since: int) -> Json:
        self.journal.read()
        return by_target(write for write in self.journal.writes[since:] if write.agent == OPERATOR_AGENT)


async def run(load: Load, idle_seconds: float) -> Json:
    async with bench_plane() as plane, Client(plane.service_account("user"), "aifactory-bench-user") as user:
        house = House(plane, user, load)
        try:
            found: Json = {"jobs": load.count, "pods": load.pods, "filled": await _fill(house)}
            found["idle"] = await _idle(house, idle_seconds)
            found["storm"] = await _storm(house)
            found["coldStart"] = await _cold_start(house)
            found["leaderKilled"] = await _kill_leader(house)
            return found
        finally:
            for operator in house.operators:
                operator.stop(kill=True)


async def _fill(house: House) -> Json:
    operator, _ = await house.start()
    load, journal = house.load, house.journal
    started = time.monotonic()
    await create_jobs(house.user, load)

    def left() -> str:
        told = {w.name for w in journal.select("patch", "trainingjobs/status") if w.phase == "Running"}
        return "" if len(told) == load.count else f"{len(told)} of {load.count} jobs are Running"

    await journal.wait(left, "every job is Running in its status", seconds=PATIENCE_SECONDS, alive=operator.check)
    seconds = time.monotonic() - started
    await journal.settle(OPERATOR_AGENT)
    used = processes.memory(operator.pid)
    return {
        "seconds": round(seconds, 1),
        "operatorCpuSeconds": round(processes.cpu_seconds(operator.pid), 1),
        "rssMiB": round(used.now, 1),
        "peakRssMiB": round(used.peak, 1),
        "writesPerJob": round(sum(house.writes(0).values()) / load.count, 2),
    }


async def _idle(house: House, seconds: float) -> Json:
    operator = house.operators[-1]
    known, before = house.journal.read(), processes.cpu_seconds(operator.pid)
    await asyncio.sleep(seconds)
    used = processes.memory(operator.pid)
    return {
        "seconds": seconds,
        "writes": house.writes(known),
        "operatorCpuSeconds": round(processes.cpu_seconds(operator.pid) - before, 2),
        "rssMiB": round(used.now, 1),
    }


async def _storm(house: House) -> Json:
    """Pod statuses change as fast as the API server takes it, in a way that changes nothing for us."""
    operator = house.operators[-1]
    known, before = house.journal.read(), processes.cpu_seconds(operator.pid)
    page = await operator.metrics()
    pods = [f"{name}-{index}-0" for name in job_names(house.load.count) for index in range(house.load.nodes)]
    count, deadline = 0, time.monotonic() + STORM_SECONDS

    async def touch(name: str) -> None:
        nonlocal count
        if time.monotonic() < deadline:
            condition = {"type": "bench.example/Touched", "status": "True", "message": f"at {time.time()}"}
            body = {"status": {"conditions": [condition]}}
            await house.user.request("PATCH", f"{PODS}/{name}/status", body, STRATEGIC)
            count += 1

    while time.monotonic() < deadline:
        await each(pods, touch)
    await asyncio.sleep(2.0)
    cpu = processes.cpu_seconds(operator.pid) - before
    return {
        "events": count,
        "eventsPerSecond": round(count / STORM_SECONDS),
        "writes": house.writes(known),
        "operatorCpuSeconds": round(cpu, 2),
        "operatorCpuMicrosecondsPerEvent": round(1e6 * cpu / max(count, 1)),
        "loopLagP99Ms": processes.lag_p99_ms(await operator.metrics(), page),
    }


async def _cold_start(house: House) -> Json:
    house.operators[-1].stop()
    known = house.journal.read()
    operator, seconds = await house.start()
    ready = processes.cpu_seconds(operator.pid)
    await at_rest(operator)
    used = processes.memory(operator.pid)
    return {
        "readySeconds": round(seconds, 2),
        "readyCpuSeconds": round(ready, 2),
        "allReconciledCpuSeconds": round(processes.cpu_seconds(operator.pid), 2),
        "writes": house.writes(known),
        "rssMiB": round(used.now, 1),
        "peakRssMiB": round(used.peak, 1),
    }


async def _kill_leader(house: House) -> Json:
    """A pod fails at the moment the leader dies; the standby replaces the job's pods, each once."""
    leader = house.operators[-1]
    await house.start()
    await asyncio.sleep(3.0)
    known = house.journal.read()
    killed = time.time()
    leader.stop(kill=True)
    name = job_names(1)[0]
    patch = failed_status(datetime.now(UTC))
    await house.user.merge(f"{PODS}/{name}-0-0/status", patch)

    def replaced() -> list[str]:
        found = house.journal.select("create", "pods", since=known)
        return [write.name for write in found if job_of(write.name) == name and attempt_of(write.name) == 1]

    def left() -> str:
        return "" if len(replaced()) >= house.load.nodes else f"{len(replaced())} pods are replaced"

    await house.journal.wait(left, "the standby restarts the job", seconds=PATIENCE_SECONDS)
    await house.journal.settle(OPERATOR_AGENT)
    first = next(w for w in house.journal.writes[known:] if w.agent == OPERATOR_AGENT)
    return {
        "leaseSeconds": LEASE_SECONDS,
        "firstWriteSeconds": round(first.at - killed, 2),
        "secondsBeyondLease": round(first.at - killed - LEASE_SECONDS, 2),
        "podsOfNewAttempt": len(replaced()),
        "duplicatePods": len(replaced()) - len(set(replaced())),
        "writes": house.writes(known),
    }
