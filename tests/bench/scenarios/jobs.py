"""Many jobs at once: from the first create to the last pod, and to the last job Complete in its own status."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.bench.client import at_pace
from tests.bench.journal import Journal, by_agent, by_target, percentile
from tests.bench.objects import JOBS, job, job_names, job_of
from tests.bench.sides import Load, Side, ours_metrics, repeated, side

Json = dict[str, Any]

PATIENCE_SECONDS = 600.0


async def run(load: Load, pairs: int) -> Json:
    """Both sides, one after the other, `pairs` times."""
    return await repeated(lambda: _pair(load), pairs)


async def paced(load: Load, per_second: float) -> Json:
    """Ours alone, at a pace that leaves the machine air: how old the status is when nobody waits for the API server."""
    async with side("ours", load) as at:
        at.start_cpu()
        bodies = (job(name, load.nodes, short=load.short) for name in job_names(load.count))
        await at_pace(bodies, lambda body: at.user.request("POST", JOBS, body), per_second)
        found = await _finish(at)
    lag = found["statusLagMs"]
    return {
        "jobs": load.count,
        "nodes": load.nodes,
        "perSecond": per_second,
        "paced": found,
        "statusLagSeconds": round(lag["max"] / 1000, 2),
    }


async def _pair(load: Load) -> Json:
    found: Json = {"jobs": load.count, "nodes": load.nodes, "gang": load.gang}
    for name in ("limit", "ours"):
        async with side(name, load) as at:
            found[name] = await _measure(at)
    ours, limit = found["ours"], found["limit"]
    found["ratios"] = {
        "podsCreated": round(ours["podsCreatedSeconds"] / limit["podsCreatedSeconds"], 2),
        "podsRunning": round(ours["podsRunningSeconds"] / limit["podsRunningSeconds"], 2),
        "complete": round(ours["completeSeconds"] / limit["completeSeconds"], 2),
        "cpuToApiServer": round(ours["cpuSeconds"]["controller"] / ours["cpuSeconds"]["kube-apiserver"], 2),
    }
    return found


async def _measure(at: Side) -> Json:
    await at.go()
    return await _finish(at)


async def _finish(at: Side) -> Json:
    """Wait for the end of every job; the figures of all of them."""
    await at.journal.wait(
        lambda: _unfinished(at), "every job is Complete in its status", seconds=PATIENCE_SECONDS, alive=at.check
    )
    await at.journal.settle(at.agent)  # Events may come after the last status
    figures = life(at.journal, at.load)
    writes = [write for write in at.journal.writes if write.agent == at.agent]
    figures |= {
        "writesPerJob": round(len(writes) / at.load.count, 2),
        "writes": by_target(writes),
        "writesByAgent": by_agent(at.journal.writes),
        "cpuSeconds": at.cpu(),
    }
    return figures | (await ours_metrics(at.process) if at.name == "ours" else {})


def _unfinished(at: Side) -> str:
    done = {write.name for write in at.journal.select("patch", "trainingjobs/status") if write.phase == "Succeeded"}
    return "" if len(done) == at.load.count else f"{len(done)} of {at.load.count} jobs are Complete"


def life(journal: Journal, load: Load) -> Json:
    """The figures of jobs that ran to their end, and the time line of their pods."""
    asked = {write.name: write.sent for write in journal.select("create", "trainingjobs")}
    start = min(asked.values())
    created = [(write.at - start, write.name) for write in journal.select("create", "pods")]
    running, succeeded = _pod_phases(journal)
    complete = _phase_times(journal, "Succeeded")
    told_running = _phase_times(journal, "Running")
    last_pod = _last_by_job({name: start + at for at, name in created})
    ran, ended = _last_by_job(running), _last_by_job(succeeded)
    lags = [complete[name] - ended[name] for name in complete]
    lags += [told_running[name] - ran[name] for name in told_running]
    return {
        "podsCreatedSeconds": round(max(at for at, _ in created), 2),
        "podsRunningSeconds": round(max(running.values()) - start, 2),
        "completeSeconds": round(max(complete.values()) - start, 2),
        "jobToPodsMs": _spread([last_pod[name] - asked[name] for name in asked]),
        "jobToCompleteMs": _spread([complete[name] - asked[name] for name in asked]),
        "statusLagMs": _spread(lags),
        "pods": len(created),
        "timeline": [round(at, 3) for at, _ in sorted(created)],
        "load": load.pods,
    }


def _pod_phases(journal: Journal) -> tuple[dict[str, float], dict[str, float]]:
    """When each pod ran and when it had succeeded: the fake kubelet patches a pod's status once for each."""
    times: dict[str, list[float]] = defaultdict(list)
    for write in journal.select("patch", "pods/status", agent="kwok"):
        times[write.name].append(write.at)
    return {name: at[0] for name, at in times.items()}, {name: at[-1] for name, at in times.items()}


def _phase_times(journal: Journal, phase: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for write in journal.select("patch", "trainingjobs/status"):
        if write.phase == phase:
            found.setdefault(write.name, write.at)
    return found


def _last_by_job(times: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for pod, at in times.items():
        found[job_of(pod)] = max(found[job_of(pod)], at)
    return found


def _spread(seconds: list[float]) -> Json:
    ms = [value * 1000 for value in seconds]
    return {"p50": round(percentile(ms, 0.5)), "p99": round(percentile(ms, 0.99)), "max": round(max(ms, default=0.0))}
