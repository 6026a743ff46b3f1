"""A start of the operator onto thousands of objects that exist: how often it lists, and how long it takes.

The objects are suspended jobs, which have a status and no children: their number is what counts. The operator before
has given the lease up, as one that is stopped does.
"""

from __future__ import annotations

from typing import Any

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, by_target
from tests.bench.objects import JOBS, job, job_names
from tests.bench.plane import BenchPlane
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, at_rest, bench_plane

Json = dict[str, Any]

PATIENCE_SECONDS = 900.0


async def run(count: int) -> Json:
    async with bench_plane() as plane, Client(plane.service_account("user"), "aifactory-bench-user") as user:
        journal = Journal(plane.audit_log)
        first = Operator(plane, leader_elect=True, name="operator-0")
        try:
            await first.ready()
            await _fill(journal, user, first, count)
        finally:
            first.stop()
        return await _start(plane, journal, count)


async def _fill(journal: Journal, user: Client, operator: Operator, count: int) -> None:
    bodies = [job(name, 1) for name in job_names(count)]
    for body in bodies:
        body["spec"]["suspend"] = True
    await each(bodies, lambda body: user.request("POST", JOBS, body))

    def left() -> str:
        told = {w.name for w in journal.select("patch", "trainingjobs/status") if w.phase == "Suspended"}
        return "" if len(told) == count else f"{len(told)} of {count} jobs are Suspended"

    await journal.wait(left, "every job is Suspended in its status", seconds=PATIENCE_SECONDS, alive=operator.check)
    await journal.settle(OPERATOR_AGENT)


async def _start(plane: BenchPlane, journal: Journal, count: int) -> Json:
    known = journal.read()
    before = journal.lists.copy()
    operator = Operator(plane, leader_elect=True, name="operator-1")
    try:
        seconds = await operator.ready()
        ready = processes.cpu_seconds(operator.pid)
        await at_rest(operator)
        journal.read()
        used = processes.memory(operator.pid)
        return {
            "objects": count,
            "lists": dict((journal.lists - before).most_common()),
            "readySeconds": round(seconds, 2),
            "readyCpuSeconds": round(ready, 2),
            "allReconciledCpuSeconds": round(processes.cpu_seconds(operator.pid), 2),
            "writes": by_target(write for write in journal.writes[known:] if write.agent == OPERATOR_AGENT),
            "rssMiB": round(used.now, 1),
            "peakRssMiB": round(used.peak, 1),
            "loopLagP99Ms": processes.lag_p99_ms(await operator.metrics()),
        }
    finally:
        operator.stop()
