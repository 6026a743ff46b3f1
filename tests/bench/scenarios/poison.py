"""One poisoned job: its pods are refused, and its Service flaps, so that it fails a thousand times a minute.

Others arrive at a steady pace that leaves the machine air; measured is their time from create to pod, beside it and
without it: then somebody else sends the same changes and the same refused pods, so that the API server has as much to
do both times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aifactory.training.rendezvous import service_name
from tests.bench.client import Client, RequestFailed, at_pace
from tests.bench.journal import Journal, percentile
from tests.bench.objects import JOBS, PODS, Recipe, job, job_of, recipe
from tests.bench.plane import NAMESPACE, until
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, bench_plane

Json = dict[str, Any]

PER_SECOND = 10.0
CHANGES_PER_SECOND = 24.0
NODES = 2
HANDS = 4
PATIENCE_SECONDS = 120.0
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"


async def run(count: int) -> Json:
    async with bench_plane() as plane:
        operator = Operator(plane)
        try:
            await operator.ready()
            async with Client(plane.service_account("user"), "aifactory-bench-user") as user:
                journal = Journal(plane.audit_log)
                await _arrivals(user, journal, operator, "warm", 20)
                async with _trouble(_Decoy(user)) as control:
                    alone = await _arrivals(user, journal, operator, "alone", count)
                known = journal.read()
                async with _trouble(_Poison(user)) as poison:
                    beside = await _arrivals(user, journal, operator, "beside", count)
                refused = [write for write in journal.select("create", "pods", since=known, ok=False) if not write.ok]
                reconciles = len([write for write in refused if write.agent == OPERATOR_AGENT]) / NODES
                return {
                    "jobs": count,
                    "alone": alone,
                    "beside": beside,
                    "changesPerMinute": {"alone": control.per_minute, "beside": poison.per_minute},
                    "failingReconcilesPerMinute": round(reconciles / poison.seconds * 60),
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
    bodies = (job(f"{prefix}-{index:04d}", 1) for index in range(count))
    await at_pace(bodies, lambda body: user.request("POST", JOBS, body), PER_SECOND)

    def pods() -> dict[str, float]:
        found = journal.select("create", "pods", since=known)
        return {job_of(write.name): write.at for write in found if write.name.startswith(prefix)}

    def left() -> str:
        return "" if len(pods()) == count else f"{len(pods())} of {count} pods"

    await journal.wait(left, "every job has its pod", seconds=PATIENCE_SECONDS, alive=operator.check)
    asked = {write.name: write.at for write in journal.select("create", "trainingjobs", since=known)}
    ms = [(at - asked[name]) * 1000 for name, at in pods().items()]
    return {"p50": round(percentile(ms, 0.5), 1), "p99": round(percentile(ms, 0.99), 1), "max": round(max(ms), 1)}


class _Poison:
    """A job whose pods are refused; each change of its Service has the operator try again."""

    name = "poison"

    def __init__(self, user: Client) -> None:
        self._user = user
        self._service = service_name(self.name)
        self.changes = 0
        self.seconds = 0.0

    @property
    def per_minute(self) -> int:
        return round(self.changes / self.seconds * 60)

    async def begin(self) -> None:
        await self._user.request("POST", JOBS, _refused(self.name))
        await until(self._missing, "the poisoned job has its Service")

    async def change(self) -> None:
        self.changes += 1
        # A label: of an annotation the operator takes no notice.
        labels = {"bench/change": str(self.changes)}
        await self._user.merge(f"{SERVICES}/{self._service}", {"metadata": {"labels": labels}})

    async def _missing(self) -> str:
        try:
            await self._user.get(f"{SERVICES}/{self._service}")
        except RequestFailed as error:
            return str(error)
        return ""


class _Decoy(_Poison):
    """The same requests with no job behind them: what they cost the API server must not count against the operator."""

    name = "decoy"

    async def begin(self) -> None:
        made = recipe(_refused(self.name)).children
        self._pods = [body for path, body in made if path == PODS]
        spec = {"clusterIP": "None", "selector": {"bench/none": "none"}}
        await self._user.request("POST", SERVICES, {"metadata": {"name": self._service}, "spec": spec})

    async def change(self) -> None:
        await super().change()
        await asyncio.gather(*map(self._refused_pod, self._pods))

    async def _refused_pod(self, body: bytes) -> None:
        try:
            await self._user.request("POST", PODS, Recipe.with_uid(body, ""))
        except RequestFailed as error:
            if error.status != 422:
                raise


def _refused(name: str) -> Json:
    body = job(name, NODES)
    body["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "missing", "mountPath": "/x"}]
    return body


@asynccontextmanager
async def _trouble(source: _Poison) -> AsyncIterator[_Poison]:
    """Change the Service at a steady rate for as long as the context lasts."""
    await source.begin()
    stop = asyncio.Event()
    started = time.monotonic()

    async def hand() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await source.change()
            await asyncio.sleep(max(0.0, started + number * HANDS / CHANGES_PER_SECOND - time.monotonic()))

    # One hand alone would be as slow as the API server is to answer.
    hands = [asyncio.create_task(hand()) for _ in range(HANDS)]
    try:
        yield source
    finally:
        stop.set()
        await asyncio.gather(*hands)
        source.seconds = time.monotonic() - started
