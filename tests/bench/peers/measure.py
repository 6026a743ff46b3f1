"""Each side does the same on a fresh control plane, and the API server's audit log tells when.

Every side is measured twice: as it comes, on a control plane with Kubernetes' own client limits; and with all of these
raised (`controllers.RAISED`, `WORKERS`), in the controllers of Kubernetes too, which make the pods of JobSet and
Trainer. Ours has no limit to raise.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, Write, percentile
from tests.bench.objects import PODS, failed_status, job_names
from tests.bench.peers import controllers
from tests.bench.peers.objects import KINDS, RUNTIMES, Kind, job_of, runtime
from tests.bench.plane import BenchPlane, furnish
from tests.bench.processes import Operator, Process
from tests.bench.sides import OPERATOR_AGENT, Load

Json = dict[str, Any]

SIDES: Final = {"ours": (), "jobset": ("jobset",), "trainer": ("jobset", "trainer")}
"""And which of others' controllers are at work in each."""
LIMITS: Final = ("as shipped", "raised")
USER: Final = "aifactory-bench-user"
SETUP: Final = "aifactory-bench-setup"
NOT_CONTROLLERS: Final = frozenset({USER, SETUP, "kwok", "kube-scheduler", "kube-apiserver"})
"""Whose writes are not for the jobs, or are the same for all."""
KUBERNETES: Final = "kube-controller-manager"
PATIENCE_SECONDS: Final = 1800.0


@dataclass
class Side:
    """One side at work."""

    kind: Kind
    plane: BenchPlane
    journal: Journal
    processes: list[Process]
    user: Client
    load: Load

    async def create(self) -> None:
        """The user creates all jobs, with many requests in flight."""
        bodies = [self.kind.make(name, self.load.nodes, self.load.short) for name in job_names(self.load.count)]
        await each(bodies, lambda body: self.user.request("POST", self.kind.path, body))

    def check(self) -> None:
        for process in self.processes:
            process.check()

    async def wait(self, left: Any, what: str) -> None:
        await self.journal.wait(left, what, seconds=PATIENCE_SECONDS, alive=self.check)

    async def settle(self) -> None:
        """Wait until no controller has anything left to write."""
        agents = (OPERATOR_AGENT, *controllers.AGENTS.values(), KUBERNETES)
        for agent in agents:
            await self.journal.settle(agent)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: of the side's own controllers, Kubernetes' controllers and the API server."""
        pids = self.plane.pids()
        return {
            "own": round(sum(processes.cpu_seconds(process.pid) for process in self.processes), 2),
            **{name: round(processes.cpu_seconds(pids[name]), 2) for name in (KUBERNETES, "kube-apiserver")},
        }


@asynccontextmanager
async def side(name: str, load: Load, *, raised: bool) -> AsyncIterator[Side]:
    """A fresh control plane with a side ready to go."""
    flags = (f"--concurrent-job-syncs={controllers.WORKERS}",) if raised else ()
    policy = Path(__file__).parent / "audit-policy.yaml"
    plane = BenchPlane(audit_policy=policy, flags=flags, as_shipped=not raised)
    with plane:
        await furnish(plane)
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(Client(plane.kubeconfig, SETUP))
            started: list[Process] = []
            for peer in SIDES[name]:
                await controllers.install(peer, plane, admin)
                process = stack.enter_context(controllers.running(peer, plane, raised=raised))
                await controllers.lead_to(process, plane, admin)
                started.append(process)
            if name == "trainer":
                await admin.create(RUNTIMES, runtime(load.short))
            if name == "ours":
                started.append(operator := Operator(plane))
                stack.callback(operator.stop)
                await operator.ready()
            user = await stack.enter_async_context(Client(plane.service_account("user"), USER))
            await asyncio.sleep(2.0)  # the controllers have just started: let them come to rest
            yield Side(KINDS[name], plane, Journal(plane.audit_log), started, user, load)


async def jobs(name: str, load: Load, *, raised: bool) -> Json:
    """Jobs whose pods end by themselves: from the first create to the last job that is Complete in its own status."""
    async with side(name, load, raised=raised) as at:
        before = at.cpu()
        await at.create()

        def left() -> str:
            done = ended(at.journal.writes, at.kind)
            return "" if len(done) == load.count else f"{len(done)} of {load.count} jobs are Complete"

        await at.wait(left, "every job is Complete in its status")
        cpu = {who: round(seconds - before[who], 2) for who, seconds in at.cpu().items()}
        await at.settle()
        return life(at.journal, at.kind, load) | {"cpuSeconds": cpu}


async def restart(name: str, load: Load, *, raised: bool) -> Json:
    """Jobs that run, and one pod of each fails at the same moment: from that to the last pod in place of the old."""
    async with side(name, load, raised=raised) as at:
        await at.create()

        def left() -> str:
            run = {write.name for write in at.journal.select("patch", "pods/status", agent="kwok")}
            return "" if len(run) == load.pods else f"{len(run)} of {load.pods} pods run"

        await at.wait(left, "every pod runs")
        await at.settle()
        known = len(at.journal.writes)
        pods = by_job((await at.user.get(PODS))["items"])
        # Another pod of each, as node by node in life.
        chosen = [names[number % len(names)] for number, names in enumerate(pods[job] for job in sorted(pods))]
        patch = failed_status(datetime.now(UTC))
        await each(chosen, lambda pod: at.user.merge(f"{PODS}/{pod}/status", patch), in_flight=len(chosen))

        def missing() -> str:
            made = replaced(at.journal.writes[known:])
            whole = sum(1 for times in made.values() if len(times) >= load.nodes)
            return "" if whole == load.count else f"{whole} of {load.count} jobs have all their pods again"

        await at.wait(missing, "every pod is replaced")
        await at.settle()
        return delays(at.journal.writes[known:], load.nodes)


def by_job(pods: Iterable[Json]) -> dict[str, list[str]]:
    """Names of pods, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(pod["metadata"]["name"] for pod in pods):
        found[job_of(name)].append(name)
    return found


def ended(writes: Iterable[Write], kind: Kind) -> dict[str, float]:
    """When each job's own status said that it is Complete."""
    found: dict[str, float] = {}
    for write in writes:
        if write.ok and write.resource == f"{kind.resource}/status" and write.phase == kind.done:
            found.setdefault(write.name, write.at)
    return found


def replaced(writes: Iterable[Write]) -> dict[str, list[float]]:
    """When pods of each job were created."""
    found: dict[str, list[float]] = defaultdict(list)
    for write in writes:
        if write.ok and (write.verb, write.resource) == ("create", "pods"):
            found[job_of(write.name)].append(write.at)
    return found


def life(journal: Journal, kind: Kind, load: Load) -> Json:
    """The figures of jobs that ran to their end."""
    asked = {write.name: write.sent for write in journal.select("create", kind.resource, agent=USER)}
    start = min(asked.values())
    created = [write.at - start for write in journal.select("create", "pods")]
    running: dict[str, float] = {}
    for write in journal.select("patch", "pods/status", agent="kwok"):
        running.setdefault(write.name, write.at - start)
    complete = ended(journal.writes, kind)
    whole = [complete[name] - at for name, at in asked.items()]
    for_jobs = [
        write
        for write in journal.writes
        if write.sent >= start and write.agent not in NOT_CONTROLLERS and write.resource != "leases"
    ]
    return {
        "podsCreatedSeconds": round(max(created), 2),
        "podsRunningSeconds": round(max(running.values()), 2),
        "completeSeconds": round(max(complete.values()) - start, 2),
        "jobSeconds": _spread(whole),
        "writesPerJob": round(len(for_jobs) / load.count, 1),
        "pods": len(created),
    }


def delays(writes: list[Write], nodes: int) -> Json:
    """From each job's failed pod to the last of so many pods in its place."""
    failed = {
        job_of(write.name): write.at for write in writes if write.agent == USER and write.resource == "pods/status"
    }
    made = replaced(writes)
    return {"restartSeconds": _spread(sorted(made[name])[nodes - 1] - at for name, at in failed.items())}


def _spread(seconds: Iterable[float]) -> Json:
    values = list(seconds)
    return {"p50": round(percentile(values, 0.5), 2), "p99": round(percentile(values, 0.99), 2)}
