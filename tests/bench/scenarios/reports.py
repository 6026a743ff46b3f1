"""A thousand jobs whose programs report their progress every two seconds, as the trainer does.

Each report is an HTTP request of its own on a connection of its own, with a token that is bound to the pod of rank 0;
the API server reviews it the first time. Measured once every token is known: the operator's CPU, what it writes, how
late its event loop is, and how old the progress in a status is.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from aifactory.api import names
from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, by_target, percentile
from tests.bench.objects import JOBS, PODS, job_names, job_of
from tests.bench.plane import NAMESPACE
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, Load, bench_plane, create_jobs

Json = dict[str, Any]

PATIENCE_SECONDS = 1800.0
INTERVAL_SECONDS = 2.0
WARM_SECONDS = 15.0
MEASURED_SECONDS = 60.0
STEPS = 10_000
TOKENS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"


@dataclass
class Reporters:
    """One reporter for each job; `begin` starts them, at moments spread over an interval."""

    port: int
    tokens: dict[str, str]
    sent: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    """From the begin of each report to its answer."""
    words: str = ""
    """The last answer that was not 204."""

    def begin(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        rng = random.Random(0)
        return [group.create_task(self._report(name, INTERVAL_SECONDS * rng.random())) for name in self.tokens]

    async def _report(self, name: str, phase: float) -> None:
        started, number = time.monotonic() + phase, 0
        while True:
            await asyncio.sleep(max(0.0, started + number * INTERVAL_SECONDS - time.monotonic()))
            number += 1
            await self._send(name, number)

    async def _send(self, name: str, step: int) -> None:
        body = msgspec.json.encode(
            {
                "step": step,
                "totalSteps": STEPS,
                "tokensPerSecond": 51234.5 + step,
                "metrics": {"loss": 3.0 / step, "learningRate": 3e-4, "gradientNorm": 1.0 + 0.1 * (step % 7)},
                "checkpoint": {"step": step - step % 10, "path": f"checkpoints/step-{step - step % 10}"},
            }
        )
        head = (
            f"POST /v1/progress/{NAMESPACE}/{name} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.tokens[name]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        begun = time.monotonic()
        self.sent += 1
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head.encode() + body)
            answer = await reader.read()
            writer.close()
        except OSError as error:
            answer = repr(error).encode()
        self.seconds.append(time.monotonic() - begun)
        if not answer.startswith(b"HTTP/1.1 204"):
            self.failed += 1
            self.words = answer[:500].decode(errors="replace")


async def run(load: Load) -> Json:
    async with bench_plane() as plane, Client(plane.service_account("user"), "aifactory-bench-user") as user:
        journal = Journal(plane.audit_log)
        operator = Operator(plane)
        try:
            await operator.ready()
            await _fill(journal, user, operator, load)
            reporters = Reporters(operator.progress_port, await _tokens(user, load))
            return {"jobs": load.count, "pods": load.pods} | await _measure(journal, user, operator, reporters)
        finally:
            operator.stop()


async def _fill(journal: Journal, user: Client, operator: Operator, load: Load) -> None:
    await create_jobs(user, load)

    def left() -> str:
        told = {w.name for w in journal.select("patch", "trainingjobs/status") if w.phase == "Running"}
        return "" if len(told) == load.count else f"{len(told)} of {load.count} jobs are Running"

    await journal.wait(left, "every job is Running in its status", seconds=PATIENCE_SECONDS, alive=operator.check)
    await journal.settle(OPERATOR_AGENT)


async def _tokens(user: Client, load: Load) -> dict[str, str]:
    """What the kubelet mounts into the pod of rank 0, by job."""
    found: dict[str, str] = {}
    pods = await user.get(f"{PODS}?labelSelector={quote(f'{names.LABEL_NODE_INDEX}=0')}")

    async def token(pod: Json) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        spec = {"audiences": [names.PROGRESS_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        found[job_of(name)] = (await user.create(TOKENS, body))["status"]["token"]

    await each(pods["items"], token)
    assert sorted(found) == job_names(load.count), f"{len(found)} tokens"
    return found


async def _measure(journal: Journal, user: Client, operator: Operator, reporters: Reporters) -> Json:
    async with asyncio.TaskGroup() as group:
        reporting = reporters.begin(group)
        await asyncio.sleep(WARM_SECONDS)
        known, page, sent = journal.read(), await operator.metrics(), reporters.sent
        reporters.seconds.clear()
        began, before = time.monotonic(), processes.cpu_seconds(operator.pid)
        waited = processes.waited_seconds(operator.pid)
        await asyncio.sleep(MEASURED_SECONDS)
        seconds, used = time.monotonic() - began, processes.cpu_seconds(operator.pid) - before
        waited = processes.waited_seconds(operator.pid) - waited
        journal.read()
        writes = [write for write in journal.writes[known:] if write.agent == OPERATOR_AGENT]
        lag = processes.lag_p99_ms(await operator.metrics(), page)
        ages = await _ages(user)
        for task in reporting:
            task.cancel()
    if reporters.failed:
        raise RuntimeError(f"{reporters.failed} of {reporters.sent} reports failed; the last: {reporters.words}")
    ms = [1000 * value for value in reporters.seconds]
    return {
        "intervalSeconds": INTERVAL_SECONDS,
        "seconds": round(seconds, 1),
        "reportsPerSecond": round((reporters.sent - sent) / seconds, 1),
        "reportMs": {"p50": round(percentile(ms, 0.5), 1), "p99": round(percentile(ms, 0.99), 1)},
        "operatorCores": round(used / seconds, 3),
        "waitedForCpuShare": round(waited / seconds, 3),
        "writes": by_target(writes),
        "statusWritesPerSecond": round(len(writes) / seconds, 1),
        "loopLagP99Ms": lag,
        "progressAgeSeconds": {"p50": round(percentile(ages, 0.5), 1), "max": round(max(ages), 1)},
        "rssMiB": round(processes.memory(operator.pid).now, 1),
    }


async def _ages(user: Client) -> list[float]:
    """How long ago what each job's status tells was reported."""
    jobs = await user.get(JOBS)
    now = datetime.now(UTC)
    times = [datetime.fromisoformat(job["status"]["progress"]["lastHeartbeatTime"]) for job in jobs["items"]]
    return [(now - at).total_seconds() for at in times]
