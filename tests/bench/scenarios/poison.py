"""One poisoned job: its pods are refused, and its Service flaps, so that it fails a thousand times a minute.

Others arrive at a steady pace that leaves the machine air; measured is their time from create to pod, with and without.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.bench.client import Client
from tests.bench.journal import Journal, percentile
from tests.bench.objects import JOBS, job, job_of
from tests.bench.plane import NAMESPACE, until
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, bench_plane

Json = dict[str, Any]

PER_SECOND = 10.0
POISON_PER_SECOND = 17.0
HANDS = 4
PATIENCE_SECONDS = 120.0
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/poison"


async def run(count: int) -> Json:
    async with bench_plane() as plane:
        operator = Operator(plane)
        try:
            await operator.ready()
            async with Client(plane.service_account("user"), "aifactory-bench-user") as user:
                journal = Journal(plane.audit_log)
                await _arrivals(user, journal, operator, "warm", 20)
                alone = await _arrivals(user, journal, operator, "alone", count)
                known = journal.read()
                stop = asyncio.Event()
                poison = asyncio.create_task(_poison(user, stop))
                beside = await _arrivals(user, journal, operator, "beside", count)
                stop.set()
                seconds = await poison
                refused = list(journal.select("create", "pods", agent=OPERATOR_AGENT, since=known, ok=False))
                return {
                    "jobs": count,
                    "alone": alone,
                    "beside": beside,
                    "failingReconcilesPerMinute": round(len([w for w in refused if not w.ok]) / seconds * 60),
                    "ratios": {
                        "p99": round(beside["p99"] / alone["p99"], 2),
                        "p50": round(beside["p50"] / alone["p50"], 2),
                    },
                }
        finally:
            operator.stop()


async def _arrivals(user: Client, journal: Journal, operator: Operator, prefix: str, count: int) -> Json:
    """Milliseconds from the answered create of a job to that of its pod."""
    known = journal.read()
    started = time.monotonic()
    for index in range(count):
        await user.request("POST", JOBS, job(f"{prefix}-{index:04d}", 1))
        await asyncio.sleep(max(0.0, started + (index + 1) / PER_SECOND - time.monotonic()))

    def pods() -> dict[str, float]:
        found = journal.select("create", "pods", since=known)
        return {job_of(write.name): write.at for write in found if write.name.startswith(prefix)}

    def left() -> str:
        return "" if len(pods()) == count else f"{len(pods())} of {count} pods"

    await journal.wait(left, "every job has its pod", seconds=PATIENCE_SECONDS, alive=operator.check)
    asked = {write.name: write.at for write in journal.select("create", "trainingjobs", since=known)}
    ms = [(at - asked[name]) * 1000 for name, at in pods().items()]
    return {"p50": round(percentile(ms, 0.5), 1), "p99": round(percentile(ms, 0.99), 1), "max": round(max(ms), 1)}


async def _poison(user: Client, stop: asyncio.Event) -> float:
    """Create a job whose pods are refused, and change its Service for ever; returns for how long."""
    body = job("poison", 2)
    body["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "missing", "mountPath": "/x"}]
    await user.request("POST", JOBS, body)
    await until(lambda: _missing(user), "the poisoned job has its Service")
    started = time.monotonic()

    async def change(hand: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # A label: of an annotation the operator takes no notice.
            await user.merge(SERVICE, {"metadata": {"labels": {f"bench/hand-{hand}": str(number)}}})
            await asyncio.sleep(max(0.0, started + number * HANDS / POISON_PER_SECOND - time.monotonic()))

    # One hand alone would be as slow as the API server is to answer.
    await asyncio.gather(*(change(hand) for hand in range(HANDS)))
    return time.monotonic() - started


async def _missing(user: Client) -> str:
    try:
        await user.get(SERVICE)
    except Exception as error:
        return str(error)
    return ""
