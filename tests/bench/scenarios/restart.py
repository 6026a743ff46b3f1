"""Coordinated restart: in each of several running jobs one pod fails at the same moment, and all pods are replaced.

Measured from the failed pod's status to the answer to the last create of a replacement. The limit deletes and creates
the same pods and waits, like the operator, until the old ones are gone; it writes no status in between.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.bench.client import each
from tests.bench.journal import by_target, percentile
from tests.bench.objects import PODS, attempt_of, failed_status, job_names, job_of
from tests.bench.sides import Load, Side, ours_metrics, repeated, side

Json = dict[str, Any]

PATIENCE_SECONDS = 600.0


async def run(load: Load, pairs: int) -> Json:
    """Both sides, one after the other, each on a fresh control plane, `pairs` times."""
    return await repeated(lambda: _pair(load), pairs)


async def _pair(load: Load) -> Json:
    found: Json = {"jobs": load.count, "nodes": load.nodes}
    for name in ("limit", "ours"):
        async with side(name, load) as at:
            found[name] = await _create(at) | await _restart(at)
            found[name] |= await ours_metrics(at.process) if name == "ours" else {}
    ours, limit = found["ours"], found["limit"]
    found["ratios"] = {
        "podsCreated": round(ours["podsCreatedSeconds"] / limit["podsCreatedSeconds"], 2),
        "restartP50": round(ours["restartMs"]["p50"] / limit["restartMs"]["p50"], 2),
        "restartP99": round(ours["restartMs"]["p99"] / limit["restartMs"]["p99"], 2),
    }
    return found


async def _create(at: Side) -> Json:
    await at.go()

    def left() -> str:
        told = {w.name for w in at.journal.select("patch", "trainingjobs/status") if w.phase == "Running"}
        return "" if len(told) == at.load.count else f"{len(told)} of {at.load.count} jobs are Running"

    await at.journal.wait(left, "every job is Running in its status", seconds=PATIENCE_SECONDS, alive=at.check)
    await at.journal.settle(at.agent)
    start = min(write.sent for write in at.journal.select("create", "trainingjobs"))
    created = sorted(write.at - start for write in at.journal.select("create", "pods"))
    running = [write.at - start for write in at.journal.select("patch", "pods/status", agent="kwok")]
    return {
        "podsCreatedSeconds": round(created[-1], 2),
        "podsRunningSeconds": round(max(running), 2),
        "createTimeline": [round(second, 3) for second in created],
    }


async def _restart(at: Side) -> Json:
    known = len(at.journal.writes)
    at.start_cpu()
    patch = failed_status(datetime.now(UTC))
    names = [f"{name}-{number % at.load.nodes}-0" for number, name in enumerate(job_names(at.load.count))]
    await each(names, lambda name: at.user.merge(f"{PODS}/{name}/status", patch), in_flight=at.load.count)

    def replaced() -> list[tuple[str, float]]:
        found = at.journal.select("create", "pods", since=known)
        return [(job_of(write.name), write.at) for write in found if attempt_of(write.name) == 1]

    def left() -> str:
        made = len(replaced())
        return "" if made >= at.load.pods else f"{made} of {at.load.pods} pods are replaced"

    await at.journal.wait(left, "every pod is replaced", seconds=PATIENCE_SECONDS, alive=at.check)
    cpu = at.cpu()
    await at.journal.settle(at.agent)
    failed = {job_of(w.name): w.at for w in at.journal.select("patch", "pods/status", agent="aifactory-bench-user")}
    last: dict[str, float] = {}
    for name, when in replaced():
        last[name] = max(when, last.get(name, 0.0))
    ms = [(last[name] - when) * 1000 for name, when in failed.items()]
    first = min(failed.values())
    return {
        "restartMs": {"p50": round(percentile(ms, 0.5)), "p99": round(percentile(ms, 0.99)), "max": round(max(ms))},
        "restartCpuSeconds": cpu,
        "restartWrites": by_target(w for w in at.journal.writes[known:] if w.agent == at.agent),
        "timeline": sorted(round(when - first, 3) for _, when in replaced()),
    }
