"""InferencePools: many created at once, then a new version of their model appears and all of them change to it.

There is no limit next to it: most of the writes are the Deployment and ReplicaSet controllers'. Counted are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.bench import processes
from tests.bench.client import Client, each
from tests.bench.journal import Journal, Write, by_agent, by_target, percentile
from tests.bench.objects import POOLS, VERSIONS
from tests.bench.plane import NAMESPACE, BenchPlane
from tests.bench.processes import Operator
from tests.bench.sides import OPERATOR_AGENT, bench_plane, ours_metrics

Json = dict[str, Any]

PATIENCE_SECONDS = 900.0
DIGEST = f"sha256:{'0' * 64}"
_TIME = "2026-01-01T00:00:00Z"


async def run(count: int) -> Json:
    async with bench_plane() as plane:
        operator = Operator(plane)
        try:
            await operator.ready()
            async with Client(plane.service_account("user"), "aifactory-bench-user") as user:
                return await _measure(plane, operator, user, count)
        finally:
            operator.stop()


async def _measure(plane: BenchPlane, operator: Operator, user: Client, count: int) -> Json:
    journal = Journal(plane.audit_log)
    await publish(user, 1)
    await journal.settle(OPERATOR_AGENT)
    names = [f"pool-{index:04d}" for index in range(count)]
    before = processes.cpu_seconds(operator.pid)
    created = await _phase(
        journal, operator, count, lambda: each(names, lambda name: user.request("POST", POOLS, pool(name))), "1"
    )
    changed = await _phase(journal, operator, count, lambda: publish(user, 2), "2")
    cpu = processes.cpu_seconds(operator.pid) - before
    return {
        "pools": count,
        "created": created,
        "changed": changed,
        "operatorCpuSeconds": round(cpu, 2),
        **await ours_metrics(operator),
    }


async def _phase(journal: Journal, operator: Operator, count: int, begin: Callable[[], Any], version: str) -> Json:
    """From the first write of the user until every pool says that it serves the version."""
    known = journal.read()
    await begin()

    def serving() -> dict[str, Write]:
        found = journal.select("patch", "inferencepools/status", since=known)
        return {write.name: write for write in found if write.version == version}

    def left() -> str:
        return "" if len(serving()) == count else f"{len(serving())} of {count} pools serve version {version}"

    await journal.wait(left, f"every pool serves {version}", seconds=PATIENCE_SECONDS, alive=operator.check)
    await journal.settle(OPERATOR_AGENT)
    start = next(w.sent for w in journal.writes[known:] if w.agent == "aifactory-bench-user")
    pods = [write.at - start for write in journal.select("create", "pods", since=known)]
    ready = [write.at - start for write in serving().values()]
    ours = [write for write in journal.writes[known:] if write.agent == OPERATOR_AGENT]
    return {
        "lastPodSeconds": round(max(pods, default=0.0), 2),
        "lastServingSeconds": round(max(ready), 2),
        "servingP50Seconds": round(percentile(ready, 0.5), 2),
        "writesPerPool": round(len(ours) / count, 2),
        "writes": by_target(ours),
        "writesByAgent": by_agent(journal.writes[known:]),
    }


def pool(name: str) -> Json:
    """It changes to another version by new pods: fake ones have no agent that could load it."""
    spec = {
        "models": [{"name": "chat", "track": "Latest"}],
        "replicas": 1,
        "drain": {"preStopSeconds": 0},
        "rollout": {"strategy": "Surge"},
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "aifactory.dev/v1alpha1", "kind": "InferencePool", "metadata": metadata, "spec": spec}


async def publish(user: Client, version: int) -> None:
    """A version of the model that has been verified already: verification is not what is measured."""
    name = f"chat-v{version}"
    spec = {"model": "chat", "version": version, "format": "huggingface", "digest": DIGEST}
    spec["source"] = {"uri": f"s3://models/chat/{version}"}
    await user.create(VERSIONS, {"apiVersion": "aifactory.dev/v1alpha1", "kind": "ModelVersion",
                                 "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})  # fmt: skip
    conditions = [
        {"type": type_, "status": "True", "reason": "Verified", "message": "", "lastTransitionTime": _TIME,
         "observedGeneration": 1}
        for type_ in ("Ready", "Verified")
    ]  # fmt: skip
    status = {"observedGeneration": 1, "conditions": conditions, "resolvedDigest": DIGEST}
    await user.merge(f"{VERSIONS}/{name}/status", {"status": status})
